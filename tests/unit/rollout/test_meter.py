"""Figures of a pool: what share of the time its actors had nothing to do, and what its sequences are like."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from codex_ray.config.rollout import Rollouts
from codex_ray.rollout import meter as module
from codex_ray.rollout.episode import Failure, Outcome, Prompt, Turn
from codex_ray.rollout.ledger import Ledger
from codex_ray.rollout.meter import Meter
from codex_ray.rollout.sampling import Sampling
from codex_ray.rollout.steps import Order, Step


@dataclass
class Worker:
    """Somebody who has worked for so long."""

    busy: float = 0.0

    def busy_seconds(self) -> float:
        return self.busy


def finished() -> Step:
    """Three sequences: one of two turns, one cut, one that could not be scored."""
    step = Step(Order(0, None, [Prompt([1])], 3, Sampling()), 2, Rollouts(slots=4), 0, scored=True)
    (task,) = step.tasks()
    turn = Turn(None, [], [5, 6], "", "", [-1.0] * 2, [-1.0] * 2, "stop")
    cut = Turn(None, [], [5], "", "", [-1.0], [-1.0], "length")
    step.sampled(task, [turn, cut, turn])
    step.judged(0, Outcome(observation="x"))
    step.failed(2, Failure("late", ""))
    following = step.judged(1, Outcome(reward=1.0))
    assert following is not None
    step.sampled(following, [Turn("x", [9], [7], "", "", [-1.0], [-1.0], "stop")])
    step.judged(0, Outcome(reward=4.0))
    return step


def test_figures_are_of_the_time_since_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    workers = [Worker(7.0), Worker(5.0)]
    meter, ledger = Meter(workers), Ledger(1, newest=3)
    meter.begin()
    now, workers[0].busy = 110.0, 15.0
    step = finished()
    step.tokens, step.seconds = 50, 20.0
    meter.failures["late"] += 1
    figures = meter.read(step, ledger)
    assert figures["rollout/idle_ratio"] == pytest.approx(0.6)
    assert figures["rollout/tokens_per_second"] == 5.0 and figures["rollout/tokens"] == 50
    assert figures["rollout/reward"] == 2.5 and figures["rollout/sequences"] == 2
    assert figures["rollout/length"] == 2.0 and figures["rollout/turns"] == 1.5
    assert figures["rollout/truncated"] == 0.5
    assert figures["rollout/filtered"] == figures["rollout/score_failures"] == 1
    now, workers[0].busy, workers[1].busy = 112.0, 17.0, 7.0
    figures = meter.read(finished(), ledger)
    assert figures["rollout/idle_ratio"] == 0.0 and figures["rollout/score_failures"] == 0
