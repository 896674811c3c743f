"""Losses that jump, and the batches that a run leaves out after going back to before one.

A run that goes back takes its newest checkpoint and goes on with the batches after the one that jumped. What
is left out is written down as pairs (step, batches): before the step with this number, counted from 0, so
many batches are passed over. So the order stays arithmetic, and a resumed run leaves out the same.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

WINDOW = 50  # losses that a new one is compared with
FEWEST = 10
MOST_ROLLBACKS = 10  # in one run; more and it is not the data

Skips = Sequence[tuple[int, int]]


class SpikeError(Exception):
    """A loss jumped: all ranks go back.

    Args:
        step: optimizer steps done, that of the jump included.
        reason: what jumped, for the user.
    """

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(reason)
        self.step, self.reason = step, reason


def is_spike(loss: float, recent: Sequence[float], factor: float) -> bool:
    """Whether a loss stands out from those before it; with few of them none does."""
    return factor > 0 and len(recent) >= FEWEST and loss > factor * statistics.median(recent)


def batch_index(step: int, skips: Skips) -> int:
    """Return which global batch step ``step``, counted from 0, takes."""
    return step + sum(batches for first, batches in skips if first <= step)


def after_rollback(skips: Skips, step: int, spike_step: int) -> list[tuple[int, int]]:
    """Return the skips of a run that goes back to ``step`` as step ``spike_step``, counted from 1, jumped."""
    kept = [(first, batches) for first, batches in skips if first <= step]
    return [*kept, (step, batch_index(spike_step - 1, skips) + 1 - batch_index(step, kept))]


def stretches(first: int, steps: int, skips: Skips) -> list[tuple[int, int]]:
    """Cut steps from ``first`` on into pairs (first batch, number of batches) that follow one another."""
    stop = first + steps
    cuts = sorted({step for step, _ in skips if first < step < stop})
    return [
        (batch_index(begin, skips), end - begin)
        for begin, end in zip([first, *cuts], [*cuts, stop], strict=True)
        if end > begin
    ]
