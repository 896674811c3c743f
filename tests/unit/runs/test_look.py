"""`runs list`, `runs show` and the state of a run, from folders alone."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from codex_ray.cli import main
from codex_ray.config.runs import ListRuns
from codex_ray.errors import CodexRayError
from codex_ray.runs import state
from codex_ray.runs.look import list_verb
from codex_ray.runs.state import find_run, last_row, states
from codex_ray.track.run_folder import RunFolder
from codex_ray.train.messages import Messages
from tests.unit.runs.folders import write_run

HOLD = """
import sys
from codex_ray.track.run_folder import RunFolder
with RunFolder.open(sys.argv[1], sys.argv[2], "pretrain", "auto"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def hold(runs: Path, name: str) -> subprocess.Popen[str]:
    """A driver of a run, in another process."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(runs), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_each_state_is_told_from_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, status in (("done", "completed"), ("halted", "stopped"), ("broken", "failed"), ("dead", None)):
        write_run(tmp_path, name, 20, status)
    going = write_run(tmp_path, "going", 30, "stopped")  # an earlier start was stopped
    (tmp_path / "notes").mkdir()  # no run
    driver = hold(tmp_path, "going")
    try:
        assert main(["runs", "list", str(tmp_path)]) == 0
        table = capsys.readouterr().out.splitlines()
        assert table[2].split()[:2] == ["going", "running"]
        assert dict(line.split()[:2] for line in table[3:]) == {
            "done": "completed", "halted": "stopped", "broken": "failed", "dead": "failed",
        }  # fmt: skip
        assert (
            "30 of 100" in table[2] and "24,000" in table[2] and f"{last_row(going)['loss']:.4g}" in table[2]
        )
        driver.kill()  # it cannot say how it ended
        driver.wait(30)
        assert states([going]) == {going: "failed"}
    finally:
        driver.kill()


def test_a_run_that_cannot_be_read_does_not_hide_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("decided", "ended", "empty", "rows", "good")
    runs = {name: write_run(tmp_path, name, 5, "completed") for name in names}
    (runs["decided"] / "decided.json").write_text("{")
    (runs["ended"] / "attempts" / "1" / "outcome.json").write_text('{"sta')
    (runs["empty"] / "attempts" / "1" / "outcome.json").write_text("{}")
    (runs["rows"] / "metrics.jsonl").unlink()
    (runs["rows"] / "metrics.jsonl").mkdir()
    pulses = write_run(tmp_path, "pulses", 5, None)
    (pulses / "attempts" / "1" / "pulse_0.json").write_text("{}")
    assert main(["runs", "list", str(tmp_path)]) == 0
    found = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines()[2:])
    assert found == dict.fromkeys(names, "unreadable") | {"good": "completed", "pulses": "failed"}


def test_pulses_tell_of_a_run_that_another_machine_drives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "PULSE_SECONDS", 0.5)
    far, gone = (write_run(tmp_path, name, 5, None) for name in ("far", "gone"))
    done = threading.Event()

    def beat() -> None:
        beats = 0
        while not done.wait(0.05):
            beats += 1
            pulse = json.dumps({"key": "10.0.0.7:1", "beats": beats})
            staged = far / "attempts" / "1" / ".pulse"
            staged.write_text(pulse)
            staged.replace(far / "attempts" / "1" / "pulse_0.json")

    (gone / "attempts" / "1" / "pulse_0.json").write_text(json.dumps({"key": "10.0.0.8:1", "beats": 9}))
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        time.sleep(0.2)
        assert states([far, gone]) == {far: "running", gone: "failed"}
    finally:
        done.set()
        thread.join()


def test_looking_never_keeps_a_run_from_starting(tmp_path: Path) -> None:
    run = write_run(tmp_path, "busy", 5, "stopped")
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            state.locked(run)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(20):
            RunFolder.open(tmp_path, "busy", "pretrain", "auto").close()
    finally:
        done.set()
        thread.join()


def test_show_names_what_a_user_asks_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path, "mine", 25, "failed")
    attempt = run / "attempts" / "1"
    Messages(attempt).send("worker", rank=0, pid=123, node="10.0.0.7")
    (attempt / "system_10.0.0.7.jsonl").write_text(
        json.dumps({"time": 1.0, "cpu_percent": 93.0, "memory_used_bytes": 3 * 2**30}) + "\n"
    )
    (run / "checkpoints" / "step_00000020").mkdir(parents=True)
    RunFolder(run, 1).record_error("worker", 3, 24, "forward", ValueError("out of luck"))
    assert main(["runs", "show", "mine", f"runs={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    for said in (
        *("failed", "25 of 100", "2.5 at step 20", "step_00000020", "10.0.0.7", "93 %", "3.0 GiB"),
        *("attempt 1, role worker, rank 3, step 24, phase forward", "ValueError: out of luck"),
    ):
        assert said in shown, said


def test_a_wrong_name_is_one_sentence_with_the_nearest(tmp_path: Path) -> None:
    write_run(tmp_path, "first", 5, "completed")
    with pytest.raises(CodexRayError, match=r"there is no run 'frist'.*first"):
        find_run("frist", str(tmp_path))
    with pytest.raises(CodexRayError, match="there is no run in"):
        list_verb(ListRuns(runs=str(tmp_path / "elsewhere")))


def test_the_last_row_is_read_past_a_torn_line(tmp_path: Path) -> None:
    run = write_run(tmp_path, "torn", 5, None)
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 6, "lo')
    assert last_row(run)["step"] == 5
