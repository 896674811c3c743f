"""How busy a pool is, and what its steps are like, in figures."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from codex_ray.rollout.ledger import Ledger
from codex_ray.rollout.steps import Step


class Worker(Protocol):
    """Something that works now and then."""

    def busy_seconds(self) -> float:
        """Seconds that it has worked since the beginning."""


class Meter:
    """Counts between one reading and the next.

    Attributes:
        failures: of scoring, by kind; ``unchanged``: publications of the same weights.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.unchanged = 0
        self.failures: Counter[str] = Counter()
        self._workers = workers
        self._read_at: float | None = None
        self._busy = 0.0

    def begin(self) -> None:
        """Let time count from now on, unless it does."""
        if self._read_at is None:
            self._read_at, self._busy = time.monotonic(), self._total()

    def read(self, step: Step, ledger: Ledger) -> dict[str, float]:
        """Return figures of the time since the last reading and of a finished step.

        ``rollout/idle_ratio`` is the share of the sampling actors' time in which they had nothing to do, and
        ``rollout/tokens_per_second`` what all of them together sample while they have.
        """
        self.begin()
        assert self._read_at is not None
        now, busy = time.monotonic(), self._total()
        seconds = max(now - self._read_at, 1e-9)
        worked = busy - self._busy
        rollouts = list(step.rollouts.values())
        rewards = [one.reward for one in rollouts if one.reward is not None]
        figures = {
            "rollout/idle_ratio": max(0.0, 1 - worked / (seconds * len(self._workers))),
            "rollout/tokens": float(step.tokens),
            "rollout/tokens_per_second": step.tokens / max(step.seconds, 1e-9) * len(self._workers),
            "rollout/sequences": float(len(rollouts)),
            "rollout/filtered": float(len(step.filtered)),
            "rollout/score_failures": float(sum(self.failures.values())),
            "rollout/deaths": float(ledger.deaths),
            "rollout/submitted_total": float(ledger.submitted),
            "rollout/accepted_total": float(ledger.accepted),
            "rollout/filtered_total": float(ledger.filtered.total()),
            "rollout/unchanged_weights": float(self.unchanged),
        }
        if rollouts:
            figures["rollout/length"] = sum(sum(one.mask) for one in rollouts) / len(rollouts)
            figures["rollout/turns"] = sum(len(one.text) for one in rollouts) / len(rollouts)
            truncated = sum(one.finish_reason != "stop" for one in rollouts)
            figures["rollout/truncated"] = truncated / len(rollouts)
        if rewards:
            figures["rollout/reward"] = sum(rewards) / len(rewards)
        self.unchanged = 0
        self.failures.clear()
        self._read_at, self._busy = now, busy
        return figures

    def _total(self) -> float:
        return sum(worker.busy_seconds() for worker in self._workers)
