"""The order of several sources: each position belongs to one of them, in exact shares, by arithmetic.

Positions are cut into blocks. In every block a source has the same number of positions, its weight's
share of the block, and a keyed permutation of the block says which. The k-th position of a source, from
the beginning of the run, takes the k-th row of the source's own order: each source goes through its own
epochs, a small one of large weight sooner than the others.

A block is worked out as a whole, so any position costs one block, wherever it stands; a source's rows
are drawn in its own order, so that its windows of row groups are read one after the other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from codex_ray.corpus.order import Order, permutation

# Shares are exact to 1/16384 in each block. Larger blocks would be finer, but a short run ends within
# its first blocks and has the exact shares only at their ends; this many rows of 256 tokens are 4 M
# tokens. It also bounds what a seek costs: a few milliseconds.
BLOCK = 2**14
BLOCKS_KEPT = 4  # a batch may straddle two, and figures are wanted for one that is a little behind


def apportion(weights: Sequence[float], seats: int) -> list[int]:
    """Share ``seats`` out by weight with whole numbers: largest remainders, ties to the first.

    Raises:
        ValueError: a weight is negative, or none is positive.
    """
    exact = [Fraction(weight) for weight in weights]
    total = sum(exact)
    if total <= 0 or min(exact) < 0:
        raise ValueError(f"weights must be positive numbers, not {list(weights)}")
    quotas = [weight * seats / total for weight in exact]
    shares = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda index: shares[index] - quotas[index])
    for index in by_remainder[: seats - sum(shares)]:
        shares[index] += 1
    return shares


@dataclass(frozen=True)
class _Block:
    """Of each place in a block: its source, and how many places of that source are before it."""

    sources: NDArray[np.int64]
    ranks: NDArray[np.int64]


class Mixture:
    """Which row stands at each position of an endless run over several sources.

    Row ids are those of a split: the sources' rows one after the other.

    Args:
        orders: the order of each source's own rows; None for a source without rows.
        weights: each source's share of positions; zero is never drawn, anything above zero has at
            least one position in every block.
        seed: decides which positions are whose; any non-negative integer (its low 64 bits count).
    """

    def __init__(self, orders: Sequence[Order | None], weights: Sequence[float], seed: int) -> None:
        if len(orders) != len(weights) or any(
            order is None and weight > 0 for order, weight in zip(orders, weights, strict=False)
        ):
            raise ValueError("every source with a weight needs an order of its rows")
        self._orders = list(orders)
        sizes = [order.total if order else 0 for order in orders]
        self._first_rows = np.cumsum([0, *sizes[:-1]])
        self.total = sum(sizes)
        self.shares = _shares(weights)
        self._ends = np.cumsum(self.shares)
        self._seed = seed
        self._blocks: OrderedDict[int, _Block] = OrderedDict()

    @property
    def windows(self) -> list[int]:
        """Row groups mixed together, of each source; the reader's memory is all of them."""
        return [order.window_row_groups if order else 0 for order in self._orders]

    def rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the row ids of positions ``start`` to ``stop``; an epoch is ``total`` positions."""
        return self.at(np.arange(start, stop, dtype=np.int64))

    def at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row id of each position (any shape-[n] int64 array of non-negative positions)."""
        sources, draws = self.draws(positions)
        result = np.empty_like(positions)
        for number, order in enumerate(self._orders):
            mine = sources == number
            if order is not None and mine.any():
                result[mine] = order.at(draws[mine]) + self._first_rows[number]
        return result

    def draws(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return each position's source, and how many positions of that source come before it."""
        numbers, places = np.divmod(positions, BLOCK)
        sources, draws = np.empty_like(positions), np.empty_like(positions)
        shares = np.array(self.shares, dtype=np.int64)
        for number in np.unique(numbers).tolist():
            here = numbers == number
            block = self._block(number)
            sources[here] = block.sources[places[here]]
            draws[here] = number * shares[sources[here]] + block.ranks[places[here]]
        return sources, draws

    def drawn(self, position: int) -> list[int]:
        """Return how many rows each source has given before ``position``."""
        number, place = divmod(position, BLOCK)
        begun = np.bincount(self._block(number).sources[:place], minlength=len(self.shares))
        return [number * share + int(count) for share, count in zip(self.shares, begun, strict=True)]

    def _block(self, number: int) -> _Block:
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        if len(self._blocks) >= BLOCKS_KEPT:
            self._blocks.popitem(last=False)
        slots = permutation(BLOCK, self._seed, number)
        sources = np.searchsorted(self._ends, slots, side="right")
        ranks = np.empty(BLOCK, dtype=np.int64)
        starts = self._ends - self.shares
        by_source = np.argsort(sources, kind="stable")
        ranks[by_source] = np.arange(BLOCK) - starts[sources[by_source]]
        self._blocks[number] = _Block(sources, ranks)
        return self._blocks[number]


def _shares(weights: Sequence[float]) -> list[int]:
    """Positions of each source in a block; what is too small for one position is given one."""
    shares = apportion(weights, BLOCK)
    for index, weight in enumerate(weights):
        if weight > 0 and shares[index] == 0:
            shares[shares.index(max(shares))] -= 1
            shares[index] = 1
    return shares
