"""Ranks that are slower than the others: found by the time that each spends in the forward pass.

The ranks wait for one another in the backward pass and the optimizer step, so the times of these say nothing
about any one of them. Under ZeRO-3 they wait in the forward pass too, and none is found.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

WINDOW = 20  # optimizer steps


@dataclass(frozen=True)
class Slow:
    """A slow rank: its usual seconds of forward pass in a step, and those of the ranks' median."""

    rank: int
    seconds: float
    median: float


class SlowRanks:
    """Looks at the ranks' times of each step; a rank is found once, and again after it has been faster.

    Args:
        factor: how many times the median of the ranks is slow; 0 finds none.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._times: list[Sequence[float]] = []
        self._known: set[int] = set()

    def look(self, seconds: Sequence[float]) -> list[Slow]:
        """Take in one step's seconds by rank; at the end of each window, return ranks that are newly slow."""
        self._times.append(seconds)
        if len(self._times) < WINDOW:
            return []
        usual = [statistics.median(times) for times in zip(*self._times, strict=True)]
        self._times = []
        median = statistics.median_low(usual)  # of two ranks, the faster
        slow = {rank for rank, time in enumerate(usual) if 0 < self._factor * median < time}
        found = sorted(slow - self._known)
        self._known = slow
        return [Slow(rank, usual[rank], median) for rank in found]
