"""When training ends and what the learning rate is: pure functions of the optimizer step.

A run given in seconds fixes its end while it runs (``Plan``): the plateau of a
warm-up/stable/decay schedule does not depend on the end, so the end is decided when the decay
must begin, written down, and is from then on as fixed as a run given in steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from codex_ray.config.train import Schedule, Training
from codex_ray.train.batches import Batches


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

    ``wsd`` is the warm-up/stable/decay shape of arXiv 2404.06395 with a linear decay.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / (schedule.warmup_steps + 1)
    if schedule.kind == "constant" or plan.total_steps is None:
        return 1.0
    start = schedule.warmup_steps
    if schedule.kind == "wsd":
        decay_share = schedule.decay_share
        start = max(start, plan.total_steps - round(plan.total_steps * decay_share))
    span = max(1, plan.total_steps - start)
    progress = min(1.0, max(0.0, (step - start) / span))
    shape = 0.5 * (1.0 + math.cos(math.pi * progress)) if schedule.kind == "cosine" else 1.0 - progress
    return schedule.final_share + (1.0 - schedule.final_share) * shape
