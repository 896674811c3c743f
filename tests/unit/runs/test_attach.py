"""`runs attach`: the display of a run that another process drives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from codex_ray.config.runs import AttachRun
from codex_ray.runs import attach
from codex_ray.runs.attach import attach_verb
from codex_ray.track import MetricsWriter
from codex_ray.track.run_folder import RunFolder
from codex_ray.train.messages import Messages
from tests.unit.runs.folders import row, write_run


def test_it_shows_what_comes_and_ends_with_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path, "mine", 5, "stopped", total=12)
    (run / "attempts" / "2").mkdir()

    def drive() -> None:
        Messages(run / "attempts" / "2").note("resumed from step 5")
        with MetricsWriter(run) as writer:
            for step in range(6, 13):
                writer.write(row(step))
                time.sleep(0.1)
        outcome = {"status": "completed", "time": time.time()}
        (run / "attempts" / "2" / "outcome.json").write_text(json.dumps(outcome))

    thread = threading.Thread(target=drive)
    thread.start()
    assert attach_verb(AttachRun(run=str(run), progress="plain")) == "completed"
    thread.join()
    shown = capsys.readouterr().err
    assert "resumed from step 5" in shown and "run mine: completed" in shown
    assert "12 steps" in shown and "tokens/s 24,000" in shown


def test_a_run_that_was_killed_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach, "QUIET_SECONDS", 0.5)
    run = write_run(tmp_path, "dead", 5, None, cluster={"start_timeout_seconds": 2.0})
    began = time.monotonic()  # where it is driven from is not known, so it may be starting elsewhere
    assert attach_verb(AttachRun(run=str(run), progress="off")) == "failed"
    assert time.monotonic() - began > 1.5


def test_ctrl_c_detaches_and_leaves_the_run_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path, "mine", 5, None)
    with RunFolder.open(tmp_path, "mine", "pretrain", "auto") as held:
        before = sorted(path for path in run.rglob("*"))
        process = subprocess.Popen(
            [sys.executable, "-m", "codex_ray", "runs", "attach", str(run), "progress=plain"],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        assert "mine" in process.stderr.readline()
        time.sleep(1.0)
        os.kill(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 0 and "detached; run mine goes on" in told
        assert sorted(path for path in run.rglob("*")) == before and not held.stop.exists()
