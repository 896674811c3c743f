"""The whole life in one command, on text of one's own: stopped in each stage, it ends as if undisturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.training import assert_same_end, make_text

pytestmark = [pytest.mark.integration, pytest.mark.verify, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]
WORDS = [
    "model=mhc-tiny",
    "pretrain.train.steps=150",
    "pretrain.train.batch_tokens=1024",
    "pretrain.checkpoints.every=1000",
    "pretrain.compute.dtype=float32",
    "prepare.tokenizer.vocabulary_size=512",
    "prepare.pack.sequence_length=64",
    "prepare.split.validation=0.1",
    "pretrain.track.progress=plain",
]


Popen = Callable[..., subprocess.Popen[bytes]]


def start(popen: Popen, text: Path, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        str(ROOT / "jobs" / "quickstart.py"),
        f"text={text}",
        f"folder={folder}",
        *WORDS,
    ]
    with log.open("wb") as stream:
        return popen(command, stdout=stream, stderr=stream, start_new_session=True)


def wait_for(process: subprocess.Popen[bytes], log: Path, sign: str) -> None:
    deadline = time.monotonic() + 300
    while sign not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def test_a_quickstart_stopped_in_every_stage_ends_as_an_undisturbed_one(tmp_path: Path, popen: Popen) -> None:
    text = make_text(tmp_path / "my text")
    whole = start(popen, text, tmp_path / "whole", tmp_path / "whole.log")
    assert whole.wait(600) == 0, (tmp_path / "whole.log").read_text()
    folder = tmp_path / "stopped"
    for number, sign in enumerate(("● tokenizer", "tokens/s", "score the documents")):
        log = tmp_path / f"{number}.log"
        process = start(popen, text, folder, log)
        wait_for(process, log, sign)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C does
        assert process.wait(120) == 130, log.read_text()
        assert "run the same command again and it continues" in log.read_text().splitlines()[-1]
    last = start(popen, text, folder, tmp_path / "last.log")
    assert last.wait(600) == 0, (tmp_path / "last.log").read_text()
    assert_same_end(folder / "run", tmp_path / "whole" / "run")
    ours, theirs = (
        json.loads((tmp_path / name / "run/summary.json").read_text()) for name in ("stopped", "whole")
    )
    assert ours["bits_per_byte"] == theirs["bits_per_byte"]
    assert "quickstart_seconds" in theirs and "quickstart_seconds" not in ours
