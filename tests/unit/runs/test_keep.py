"""`runs tag` and `runs prune`: what stays, for which reason, and what goes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from codex_ray.cli import main
from codex_ray.config.runs import ListRuns, PruneRuns
from codex_ray.files import write_json
from codex_ray.model.lineage import LINEAGE, lineage
from codex_ray.runs.keep import bytes_of, prune_verb, tags_of
from codex_ray.runs.look import list_verb
from codex_ray.track.run_folder import RunFolder
from tests.unit.runs.folders import write_run

DAY = 86_400


def old_run(runs: Path, name: str, status: str | None = "completed", days: float = 60) -> Path:
    run = write_run(runs, name, 5, status)
    for step in (4, 5):
        (run / f"checkpoints/step_{step:08d}").mkdir(parents=True)
        (run / f"checkpoints/step_{step:08d}/weights").write_bytes(b"x" * 100_000)
    then = time.time() - days * DAY
    os.utime(run / "attempts" / "1", (then, then))
    return run


def test_tags_are_added_listed_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = old_run(tmp_path, "first")
    old_run(tmp_path, "second")
    assert main(["runs", "tag", str(run), "add=[paper,keep]"]) == 0
    assert main(["runs", "tag", "first", f"runs={tmp_path}", "remove=[keep]", "add=[b]"]) == 0
    assert tags_of(run) == ["b", "paper"]
    (found,) = list_verb(ListRuns(runs=str(tmp_path), tag="paper"))
    assert (found["run"], found["tags"]) == ("first", "b paper")
    assert found["bytes"] > 200_000
    out = capsys.readouterr().out
    assert "KiB" in out and "b paper" in out
    (run / "tags.json").write_text("{}")
    assert main(["runs", "tag", str(run)]) == 1
    assert "are damaged" in capsys.readouterr().err


def test_old_checkpoints_go_only_when_told_and_the_newest_stays(tmp_path: Path) -> None:
    run, young = old_run(tmp_path, "old"), old_run(tmp_path, "young", days=1)
    oldest = run / "checkpoints/step_00000004"
    assert prune_verb(PruneRuns(runs=str(tmp_path))) == [oldest]
    assert oldest.exists()
    prune_verb(PruneRuns(runs=str(tmp_path), yes=True))
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_00000005"]
    assert len(list((young / "checkpoints").iterdir())) == 2
    assert prune_verb(PruneRuns(runs=str(tmp_path), yes=True)) == []


def test_runs_stay_for_a_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, chat = old_run(tmp_path, "base"), old_run(tmp_path, "chat", days=1)
    for run, origin in ((base, None), (chat, base)):
        (run / "model").mkdir()
        write_json(run / "model" / LINEAGE, lineage("a life", str(run), "rows", origin=origin))
    write_json(old_run(tmp_path, "dear") / "tags.json", ["keep"])
    write_json(old_run(tmp_path, "named") / "tags.json", ["paper"])
    old_run(tmp_path, "broken", "failed")
    old_run(tmp_path, "killed", None)
    old_run(tmp_path, "done")
    with RunFolder.open(tmp_path, "going", "pretrain"):
        settings = PruneRuns(runs=str(tmp_path), what="runs", states=["completed", "stopped"], yes=True)
        gone = prune_verb(settings)
    assert [path.name for path in gone] == ["done"]
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["base", "broken", "chat", "dear", "going", "killed", "named"]
    out = capsys.readouterr().out
    for reason in ("another run's model began from it", "is tagged keep", "is tagged paper", "is running"):
        assert reason in out
    assert "which states=['completed', 'stopped'] leaves alone" in out
    all_ended = PruneRuns(runs=str(tmp_path), what="runs", tagged=True, older_days=10, yes=True)
    assert {path.name for path in prune_verb(all_ended)} == {"broken", "killed", "named"}
    assert main(["runs", "prune", str(tmp_path / "base")]) == 1


def test_the_size_of_a_folder_counts_each_file_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    once = bytes_of(tmp_path)
    assert 100_000 <= once < 120_000
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").symlink_to(tmp_path)
    assert bytes_of(tmp_path) == once
