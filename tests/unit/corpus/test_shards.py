from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from codex_ray.corpus.shards import WRITTEN

# The tokens come from a pipe that nobody writes to: the task waits with its file half-written.
SCRIPT = """
import sys
from pathlib import Path
from codex_ray.corpus.pack import Layout, Piece
from codex_ray.corpus.shards import ShardTask, write_file
part, path = map(Path, sys.argv[1:])
write_file(ShardTask(path, "train", "text", {0: part}, [Piece(0, 0, 4)], Layout(2, 1, 2, "uint16"), {}))
"""


def test_a_task_killed_while_it_writes_leaves_nothing_among_the_corpus_files(tmp_path: Path) -> None:
    path = tmp_path / "corpus" / "train" / "text-shard-00000.parquet"
    os.mkfifo(tmp_path / "train.tokens")
    child = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path), str(path)])
    try:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "corpus").rglob(".text-shard*")):
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        child.kill()
        child.wait(30)
    assert list(path.parent.iterdir()) == []
    assert [half.parent.name for half in (tmp_path / "corpus").rglob(".text-shard*")] == [WRITTEN]
