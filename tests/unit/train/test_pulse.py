"""Hangs found by the pulses that ranks leave: who is named, and what is ordered."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codex_ray.train.pulse import EXIT_STATUS, ORDERS, STACK_SECONDS, Hang, HangWatch, clear_pulses


def beat(
    folder: Path, rank: int, beats: int, step: int, phase: str, key: str | None = None, moves: int = 0
) -> None:
    pulse = {"key": key or f"node:{rank}", "beats": beats, "step": step, "phase": phase, "moves": moves}
    (folder / f"pulse_{rank}.json").write_text(json.dumps(pulse))


def watched(
    folder: Path, places: dict[int, tuple[int, str]], silent: set[int], until: int = 30
) -> list[Hang]:
    """Look once a second at ranks that stand still from the fifth second on; the silent ones stop beating."""
    watch, hangs = HangWatch(folder, 10), []
    for second in range(1, until):
        for rank, (step, phase) in places.items():
            if second < 5:
                beat(folder, rank, second, step - 5 + second, "data")
            else:
                beat(folder, rank, 5 if rank in silent else second, step, phase)
        hang = watch.look(float(second))
        hangs += [] if hang is None else [hang]
    return hangs


def test_the_rank_that_stopped_is_named_and_then_all_are_ended(tmp_path: Path) -> None:
    places = {0: (9, "forward"), 1: (9, "data"), 2: (9, "forward")}
    hangs = watched(tmp_path, places, silent={2}, until=17)
    assert [(hang.rank, hang.step, hang.phase) for hang in hangs] == [(2, 9, "forward")]
    assert "rank 2 (node:2) has not answered for 10 s at step 9, in forward" in hangs[0].sentence
    orders = json.loads((tmp_path / ORDERS).read_text())
    assert orders == {"stacks": ["node:0", "node:1", "node:2"], "end": []}
    hangs = watched(tmp_path, places, silent={2}, until=17 + int(STACK_SECONDS))
    assert json.loads((tmp_path / ORDERS).read_text())["end"] == ["node:0", "node:1", "node:2"]


def test_of_ranks_that_wait_the_one_behind_is_the_culprit(tmp_path: Path) -> None:
    places = {0: (9, "optimizer step"), 1: (9, "data"), 2: (9, "forward")}
    (hang,) = watched(tmp_path, places, silent=set(), until=18)
    assert (hang.rank, hang.phase) == (1, "data") and "has not moved for 10 s" in hang.sentence


@pytest.mark.parametrize(
    ("places", "silent"),
    [
        ({0: (9, "checkpoint"), 1: (9, "checkpoint")}, set()),  # may take long
        ({0: (9, "data"), 1: (9, "data")}, {0, 1}),  # the group is gone; Ray starts it again
        ({}, set()),
    ],
)
def test_what_is_no_hang(places: dict[int, tuple[int, str]], silent: set[int], tmp_path: Path) -> None:
    assert watched(tmp_path, places, silent) == []


def test_one_rank_that_moves_is_enough(tmp_path: Path) -> None:
    watch = HangWatch(tmp_path, 10)
    for second in range(1, 60):
        beat(tmp_path, 0, second, 3, "data")
        beat(tmp_path, 1, second, second, "data")
        assert watch.look(float(second)) is None


def test_micro_batches_are_moves(tmp_path: Path) -> None:
    watch = HangWatch(tmp_path, 10)
    for second in range(1, 60):
        for rank in (0, 1):
            beat(tmp_path, rank, second, 3, "forward", moves=second // 8)
        assert watch.look(float(second)) is None


def test_what_killed_workers_left_goes_before_new_ones_come(tmp_path: Path) -> None:
    watch = HangWatch(tmp_path, 10)
    for second in range(1, 60):
        if second < 5:
            beat(tmp_path, 1, second, 3, "data")
        elif second == 30:
            clear_pulses(tmp_path)
        if second < 5 or second > 30:
            beat(tmp_path, 0, second, second, "data", key=f"{second > 30}")
        assert watch.look(float(second)) is None


def test_new_processes_begin_anew(tmp_path: Path) -> None:
    watch = HangWatch(tmp_path, 10)
    for second in range(1, 60):
        for rank in (0, 1):
            beat(tmp_path, rank, second, 3, "data", key=f"start{second // 8}:{rank}")
        assert watch.look(float(second)) is None


STUCK = """
import sys, time
from pathlib import Path
from codex_ray.train.pulse import Pulse

def endless():
    print("stuck", flush=True)
    while True:
        time.sleep(0.01)

Pulse(Path(sys.argv[1]), 0, "here", lambda: (4, "data", 0))
endless()
"""


def test_a_stuck_process_leaves_its_stacks_and_ends(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", STUCK, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "pulse_0.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        key = json.loads((tmp_path / "pulse_0.json").read_text())["key"]
        assert key == f"here:{process.pid}"
        (tmp_path / ORDERS).write_text(json.dumps({"stacks": [key], "end": []}))
        while (
            not (tmp_path / "stacks_0.txt").exists()
            or "endless" not in (tmp_path / "stacks_0.txt").read_text()
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert process.poll() is None
        (tmp_path / ORDERS).write_text(json.dumps({"stacks": [key], "end": [key]}))
        assert process.wait(timeout=30) == EXIT_STATUS
    finally:
        process.kill()
