"""Rows of examples: token ids that also say where an example begins and which tokens are learnt.

A stored token is a uint32: the id in the low 30 bits, then one bit for the first token of an example, then
one for a token that is a target. So examples are rows of a corpus like any other, with its order, readers
and resumption, and nothing has to be guessed from the ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BEGINS, LEARNT = 1 << 30, 1 << 31
IDS = BEGINS - 1
DTYPE = "uint32"


def mark(ids: NDArray[Any], learnt: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Return an example's stored tokens. Its first is never a target: nothing stands before it."""
    marked = ids.astype(np.uint32) | (learnt.astype(np.uint32) << np.uint32(31))
    marked[0] = (marked[0] & np.uint32(IDS)) | np.uint32(BEGINS)
    return marked


def targets(marked: NDArray[np.uint32]) -> int:
    """Return how many tokens are learnt."""
    return int((marked >> np.uint32(31)).sum())


def alone(lengths: Sequence[int], length: int) -> list[range]:
    """Put every example into a row of its own; the counterpart of :func:`best_fit`."""
    return [range(number, number + 1) for number in range(len(lengths))]


def fill_rows(
    tokens: NDArray[np.uint32],
    ends: NDArray[np.int64],
    packed: Sequence[Iterable[int]],
    length: int,
    pad_id: int,
) -> NDArray[np.uint32]:
    """Return rows [len(packed), length] of whole examples.

    What is left of a row is padding, which begins like an example and is never a target.

    Args:
        tokens: stored tokens of all examples, one behind the other; ``ends``: where each ends.
        packed: the examples of each row, by number.
    """
    rows = np.full((len(packed), length), pad_id, dtype=np.uint32)
    for number, members in enumerate(packed):
        place = 0
        for member in members:
            example = tokens[ends[member - 1] if member else 0 : ends[member]]
            rows[number, place : place + len(example)] = example
            place += len(example)
        if place < length:
            rows[number, place] |= np.uint32(BEGINS)
    return rows


def prompt_of(row: NDArray[Any]) -> list[int]:
    """Return the ids before the last run of learnt tokens of a row that holds one example."""
    learnt = np.flatnonzero(row & LEARNT)
    gaps = np.flatnonzero(np.diff(learnt) > 1)
    start = learnt[gaps[-1] + 1] if len(gaps) else learnt[0]
    return [int(token) & IDS for token in row[:start]]
