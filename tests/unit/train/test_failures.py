"""Failures are counted from the newest checkpoint on, and their cost in seconds is told."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from codex_ray.train.callback import FailureReport
from codex_ray.train.failures import Failures
from codex_ray.train.messages import MessageReader


def died(*ranks: int, preempted: bool = False) -> dict[str, Any]:
    return {
        "ranks": list(ranks),
        "reason": "its process or node is gone",
        "lost": True,
        "preempted": preempted,
    }


def test_failures_with_progress_go_on_for_ever_and_without_end() -> None:
    failures = Failures(2, "name")
    for step in range(0, 100, 10):
        failures.began(step)
        assert "rank 1 failed (its process or node is gone)" in str(failures.failed(died(1), None))
    assert failures.fatal is None
    for number in (2, 3):  # the last of the hundred was the first from step 90
        failures.began(90)
        failures.failed(died(0, 1), "attempt 1, role worker, rank 0: ValueError: no")
        assert (failures.fatal is not None) == (number == 3)
    assert "more than cluster.max_failures=2 times without a new checkpoint" in str(failures.fatal)
    assert "(ranks 0, 1: its process or node is gone)" in str(failures.fatal)
    assert "resume=auto name=name" in str(failures.fatal)


def test_where_no_process_is_gone_the_first_error_is_the_reason() -> None:
    failures = Failures(0, "name")
    failures.failed(died(1) | {"reason": "two", "lost": False}, "rank 0: ValueError: no")
    assert "(rank 0: ValueError: no)" in str(failures.fatal)


def test_going_back_is_no_progress_and_a_start_that_never_began_counts() -> None:
    failures = Failures(1, "name")
    failures.began(50)
    failures.failed(died(0), None)
    failures.began(40)
    failures.began(50)
    failures.failed(died(0), None)
    assert failures.fatal is not None
    failures = Failures(1, "name")
    assert failures.failed(died(0), None) is not None and failures.fatal is None
    assert failures.failed(died(0), None) is None and failures.fatal is not None


def test_leaving_and_announced_losses_are_no_failures() -> None:
    failures = Failures(0, "name")
    failures.began(0)
    assert failures.failed(died(0, preempted=True), None) is None
    failures.leaving()
    assert failures.failed(died(0), None) is None
    assert failures.fatal is None
    failures.failed(died(0), None)  # before it has begun again: leaving excuses one end only
    assert failures.fatal is not None
    failures = Failures(0, "name")
    failures.began(0)
    failures.failed(died(0), None)
    assert failures.fatal is not None


def test_recoveries_last_from_the_last_step_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    failures = Failures(9, "name")
    failures.stepped()
    assert failures.figures() == {"recoveries": 0.0}
    for died_after, back_after in ((1.0, 7.0), (3.0, 2.0)):
        now[0] += died_after
        failures.failed(died(0), None)
        now[0] += back_after
        failures.stepped()
    assert failures.figures() == {"recoveries": 2.0, "recovery_seconds": (8.0 + 5.0) / 2}


def test_the_controller_names_the_lost_rank_and_not_those_that_missed_it(tmp_path: Path) -> None:
    report = FailureReport(lambda: tmp_path)
    report.after_exception(None, {1: ActorDiedError(), 0: RuntimeError("Connection closed by peer")})
    report.after_exception(None, {1: ValueError("one\ntwo")})
    lost, raised = MessageReader(tmp_path).new()
    assert (lost["kind"], lost["ranks"], lost["preempted"]) == ("failure", [1], False)
    assert (raised["ranks"], raised["reason"]) == ([1], "two")


def test_workers_that_find_no_room_are_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    failures = Failures(3, "name")
    failures.began(0)
    failures.failed(died(1), None)
    now += 50
    failures.failed(died(1), None)  # does not begin the wait anew
    now += 50
    assert failures.overdue(100) is None
    now += 1
    assert "replacement_timeout_seconds=100" in str(failures.overdue(100))
    failures.began(0)
    assert failures.overdue(100) is None
