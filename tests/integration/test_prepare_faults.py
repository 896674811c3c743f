"""``prepare`` killed in each of its stages, and on a disk too small for it: a rerun makes the same bytes."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from codex_ray.cluster.processes import MARK, find
from codex_ray.config.corpus import Duplicates, Pack, Tokenizer
from codex_ray.config.saved import save
from codex_ray.corpus.manifest import Manifest
from tests.integration.training import corpus_settings

pytestmark = [pytest.mark.integration, pytest.mark.verify, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("read", "duplicates", "tokenizer", "tokens", "packed")
FULL = "codex-ray: error: the disk is full while writing "

# Small parts, so that each stage has many tasks and is caught between two of them.
SCRIPT = """
import sys
from codex_ray.corpus import build
build.PART_BYTES = (100_000, 100_000)
from codex_ray.cli import main
sys.exit(main(["prepare", "--config", sys.argv[1]]))
"""
Popen = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "text"
    folder.mkdir()
    random = np.random.default_rng(5)
    words = np.array(["".join(random.choice(list("aeioustrnlm"), 7)) for _ in range(4000)])
    for number in range(120):
        lines = random.choice(words, (400, 10)).tolist()
        (folder / f"{number:03d}.txt").write_text("\n".join(" ".join(line) for line in lines))
    return folder


@pytest.fixture(scope="module")
def undisturbed(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(command(text, folder), cwd=ROOT, check=True, timeout=280)
    return folder


def command(text: Path, folder: Path, output: Path | None = None) -> list[str]:
    """Return the command of a prepare, its settings lying in ``folder``."""
    settings = replace(
        corpus_settings(text, output or folder / "corpus"),
        tokenizer=Tokenizer(vocabulary_size=3000),
        duplicates=Duplicates(near=True),
        pack=Pack(sequence_length=32, row_group_rows=64, shard_row_groups=8),
    )
    save(settings, folder / "prepare.yaml")
    return [sys.executable, "-c", SCRIPT, str(folder / "prepare.yaml")]


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a corpus, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def finished(stages: Path) -> dict[Path, int]:
    """Return when each whole result, and each whole file of the corpus being built, was written."""
    paths = [*stages.glob("*/[!.]*/done.json"), *stages.glob("packed/*/[!.]*/[!.]*")]
    return {path: path.stat().st_mtime_ns for path in paths}


def begun(stages: Path, stage: str) -> bool:
    """Tell whether a stage is under way, and a result of it there where it has several."""
    whole = {"read": "[!.]*/done.json", "tokens": "[!.]*/done.json", "packed": "*/.written/*.json"}
    return any((stages / stage).glob(whole.get(stage, "*")))


@pytest.mark.parametrize("stage", STAGES)
def test_a_driver_killed_in_a_stage_leaves_no_process_and_the_rerun_redoes_what_is_missing(
    text: Path, undisturbed: Path, tmp_path: Path, popen: Popen, stage: str
) -> None:
    words, stages, mark = command(text, tmp_path), tmp_path / ".corpus.stages", secrets.token_hex(8)
    # Ray's processes write their titles over their environment, and the mark, unless told not to.
    child: subprocess.Popen[Any] = popen(words, cwd=ROOT, env={**os.environ, MARK: mark, "SPT_NOENV": "1"})
    deadline = time.monotonic() + 240
    while not begun(stages, stage):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    child.kill()
    assert child.wait(30) == -signal.SIGKILL
    later = STAGES[STAGES.index(stage) + 1 :]
    assert not any((stages / name).exists() for name in later) and not (tmp_path / "corpus").exists()
    before = finished(stages)

    assert subprocess.run(words, cwd=ROOT, timeout=280, check=False).returncode == 0
    assert contents(tmp_path / "corpus") == contents(undisturbed / "corpus")
    for path, when in before.items():
        name = path.relative_to(stages)
        now = tmp_path.joinpath("corpus", *name.parts[2:]) if name.parts[0] == "packed" else path
        assert now.stat().st_mtime_ns == when, f"{name} was made again"
    assert not [path for path in stages.rglob(".*") if path.name != ".lock"]
    # Two of Ray's agents look for its head for a minute before they end.
    _, alive = psutil.wait_procs(find(mark), timeout=120)
    assert (alive, find(mark)) == ([], [])


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_disk_that_fills_up_is_a_sentence_and_with_room_the_rerun_makes_the_same_bytes(
    text: Path, undisturbed: Path, tmp_path: Path, popen: Popen, share: float
) -> None:
    """The folder is a small file system of its own, in a mount namespace that goes with the command."""
    disk = tmp_path / "disk"
    disk.mkdir()
    blocks = sum(path.lstat().st_blocks for path in undisturbed.rglob("*"))
    script = (
        f"mount -t tmpfs -o size={int(blocks * 512 * share)} tmpfs '{disk}' || exit 99; "
        f"\"$@\" 2> '{tmp_path}/first'; status=$?; ls -A '{disk}' > '{tmp_path}/left'; "
        f"[ $status = 1 ] || exit 98; mount -o remount,size=1g '{disk}'; "
        f"\"$@\" || exit 97; cp -r '{disk}/corpus' '{tmp_path}/kept'"
    )
    words = ["unshare", "-rm", "sh", "-c", script, "sh", *command(text, tmp_path, disk / "corpus")]
    child: subprocess.Popen[Any] = popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _, errors = child.communicate(timeout=500)
    sentence = (tmp_path / "first").read_text()
    assert child.returncode == 0, (child.returncode, sentence, errors)
    assert sentence.startswith(f"{FULL}{disk}/.corpus.stages/") and sentence.count("\n") == 1
    assert (tmp_path / "left").read_text() == ".corpus.stages\n"
    assert files(tmp_path / "kept") == files(undisturbed / "corpus")


def files(folder: Path) -> dict[str, str]:
    manifest = Manifest.load(folder)
    manifest.verify(deep=True)
    return {info.path: info.sha256 for info in manifest.files()} | {"fingerprint": manifest.fingerprint}
