"""When training ends and what the learning rate is: pure functions of the optimizer step.

A run given in seconds fixes its end while it runs (``Plan``): the plateau of a
warm-up/stable/decay schedule does not depend on the end, so the end is decided when the decay
must begin, written down, and is from then on as fixed as a run given in steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from codex_ray.config.train import Schedule, Training
from codex_ray.errors import CodexRayError
from codex_ray.plugins import find
from codex_ray.train.batches import Batches

Shape = Callable[[Schedule, int, int], float]
"""From settings, all steps and a step after the warm-up to the learning rate as a share of the peak."""


@dataclass(frozen=True)
class Plan:
    """How far a run goes. ``total_steps`` is None until a run given in seconds has decided."""

    total_steps: int | None
    seconds: float | None = None

    @classmethod
    def of(cls, training: Training, rows: float, batches: Batches) -> Plan:
        """Plan from settings: steps, epochs of ``rows``, or seconds."""
        if training.steps is not None:
            return cls(training.steps)
        if training.epochs is not None:
            return cls(max(1, batches.reach(training.epochs * rows)))
        return cls(None, training.seconds)

    def done(self, steps_done: int) -> bool:
        """Whether ``steps_done`` optimizer steps complete the run."""
        return self.total_steps is not None and steps_done >= self.total_steps

    def decide(self, schedule: Schedule, steps_done: int, elapsed: float) -> Plan:
        """Fix the end of a run given in seconds, once its plateau has lasted its share.

        Args:
            schedule: whose ``decay_share`` of the time is kept for the decay (none if constant).
            steps_done: optimizer steps done.
            elapsed: training seconds they took.
        """
        if self.total_steps is not None or self.seconds is None:
            return self
        decay_share = schedule.decay_share if schedule.kind == "wsd" else 0.0
        if elapsed < self.seconds * (1.0 - decay_share):
            return self
        remaining = max(0.0, self.seconds - elapsed)
        return replace(self, total_steps=steps_done + math.floor(remaining * steps_done / elapsed))


def learning_rate_share(schedule: Schedule, plan: Plan, step: int) -> float:
    """Learning rate of optimizer step ``step`` (0-based) as a share of the peak.

    After the warm-up a component of the kind ``schedules`` says it, once the end is known.

    Raises:
        CodexRayError: a component's number is not finite, or negative.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / (schedule.warmup_steps + 1)
    if plan.total_steps is None:
        return 1.0
    share = float(_shape(schedule.kind)(schedule, plan.total_steps, step))
    if not 0.0 <= share < math.inf:
        raise CodexRayError(
            f"schedule.kind={schedule.kind} gives {share} at step {step}; it must give a number from 0"
        )
    return share


def constant(schedule: Schedule, total_steps: int, step: int) -> float:
    """Return the peak."""
    return 1.0


def cosine(schedule: Schedule, total_steps: int, step: int) -> float:
    """Half a cosine (arXiv 1608.03983) from the peak to ``final_share`` of it."""
    passed = _passed(schedule.warmup_steps, total_steps, step)
    return _between(schedule, 0.5 * (1.0 + math.cos(math.pi * passed)))


def linear(schedule: Schedule, total_steps: int, step: int) -> float:
    """A straight line from the peak to ``final_share`` of it."""
    return _between(schedule, 1.0 - _passed(schedule.warmup_steps, total_steps, step))


def wsd(schedule: Schedule, total_steps: int, step: int) -> float:
    """The warm-up/stable/decay shape of arXiv 2404.06395 with a linear decay."""
    start = max(schedule.warmup_steps, total_steps - round(total_steps * schedule.decay_share))
    return _between(schedule, 1.0 - _passed(start, total_steps, step))


@cache
def _shape(kind: str) -> Shape:
    found: Shape = find("schedules", kind, "schedule.kind")
    return found


def _passed(start: int, end: int, step: int) -> float:
    return min(1.0, max(0.0, (step - start) / max(1, end - start)))


def _between(schedule: Schedule, share: float) -> float:
    return schedule.final_share + (1.0 - schedule.final_share) * share
