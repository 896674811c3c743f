"""The global order of rows: a seeded permutation that is computed, never stored.

An epoch visits every row once. Row groups (blocks, the unit of reading) are permuted as wholes;
consecutive permuted blocks form windows; the rows of a window are permuted among themselves. A reader
therefore touches one window's blocks at a time, wherever in the corpus they lie, and still sees rows
that are far apart side by side.

Both permutations are small Feistel networks over a rectangle of numbers just larger than the domain,
walked until they land inside it (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002):
O(1) memory, and a position's row costs the same anywhere in any epoch. All arithmetic is on unsigned
64-bit integers, so the order is the same on every platform; ``tests/golden/order.json`` pins it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UInt64 = NDArray[np.uint64]

ROUNDS = 8  # each half is changed four times; fewer favours some arrangements of tiny domains
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio (splitmix64's increment)
BLOCKS, RAGGED, WINDOWS, MIXTURE = 1, 2, 3, 4  # domains of the keys drawn from another key


class Order:
    """Which row stands at each position of an endless, seeded sequence of epochs.

    Args:
        rows: rows in the split.
        row_group_rows: rows per block; the last block may hold fewer.
        window_row_groups: blocks mixed together; the reader's memory is one window.
        seed: seeds differ in every epoch; any non-negative integer (its low 64 bits count).
    """

    def __init__(self, rows: int, row_group_rows: int, window_row_groups: int, seed: int) -> None:
        if min(rows, row_group_rows, window_row_groups) < 1:
            raise ValueError(
                f"an order needs at least one row, one row per group and one group per window, "
                f"not {rows}, {row_group_rows} and {window_row_groups}"
            )
        self.total = rows
        self.row_group_rows = row_group_rows
        self.window_row_groups = window_row_groups
        self._full_blocks, self._ragged_rows = divmod(rows, row_group_rows)
        self._blocks = self._full_blocks + (self._ragged_rows > 0)
        self._missing = row_group_rows - self._ragged_rows if self._ragged_rows else 0
        self._key = _seed_key(seed)

    @property
    def windows(self) -> list[int]:
        """Row groups mixed together; the reader's memory is all of them (see ``Mixture``)."""
        return [self.window_row_groups]

    def rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the row ids of positions ``start`` to ``stop``; the epoch is position // rows."""
        return self.at(np.arange(start, stop, dtype=np.int64))

    def at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row id of each position (any shape-[n] int64 array of non-negative positions)."""
        group, window = np.uint64(self.row_group_rows), np.uint64(self.window_row_groups)
        missing, ragged_rows = np.uint64(self._missing), np.uint64(self._ragged_rows)
        epoch, place = np.divmod(positions.astype(np.uint64), np.uint64(self.total))
        key = _derive(self._key, epoch)

        # The ragged block gets a slot of its own among the permuted blocks; rows after its window
        # are counted as if it were whole, so that everything else is plain division.
        ragged_slot = _derive(key, RAGGED) % np.uint64(self._blocks)
        ragged_window = ragged_slot // window
        place += np.where(place >= (ragged_window + np.uint64(1)) * window * group - missing, missing, 0)
        number, offset = np.divmod(place, window * group)
        in_ragged = number == ragged_window
        slots = np.minimum(window, np.uint64(self._blocks) - number * window)
        size = slots * group - np.where(in_ragged, missing, 0)

        offset = _permute(offset, size, _derive(_derive(key, WINDOWS), number))
        hole = (ragged_slot - ragged_window * window) * group + ragged_rows
        offset += np.where(in_ragged & (offset >= hole), missing, 0)
        slot, inner = np.divmod(offset, group)
        slot += number * window

        block = np.full_like(slot, self._full_blocks)
        whole = slot != ragged_slot if self._missing else np.ones(slot.shape, dtype=bool)
        if self._missing:
            slot -= (slot > ragged_slot).astype(np.uint64)
        count = np.full(int(whole.sum()), self._full_blocks, dtype=np.uint64)
        block[whole] = _permute(slot[whole], count, _derive(key[whole], BLOCKS))
        return (block * group + inner).astype(np.int64)


def permutation(size: int, seed: int, number: int) -> NDArray[np.int64]:
    """Return a seeded permutation of range(``size``), another one for every ``number``."""
    key = _derive(_derive(_seed_key(seed), MIXTURE), number)
    values = np.arange(size, dtype=np.uint64)
    permuted = _permute(values, np.full(size, size, dtype=np.uint64), np.repeat(key, size))
    return permuted.astype(np.int64)


def _seed_key(seed: int) -> UInt64:
    return _mix(np.array([seed & (2**64 - 1)], dtype=np.uint64) ^ GOLDEN)


def _permute(values: UInt64, size: UInt64, key: UInt64) -> UInt64:
    """Permute each value within [0, size) under its key: a bijection for every (size, key)."""
    width = np.ceil(np.sqrt(size.astype(np.float64))).astype(np.uint64)
    height = (size + width - np.uint64(1)) // width
    round_keys = [_derive(key, number) for number in range(ROUNDS)]
    result = values.copy()
    pending = np.arange(len(values))
    while len(pending):  # width * height < size + width, so nearly all land inside at once
        left, right = np.divmod(result[pending], height[pending])
        for number, round_key in enumerate(round_keys):
            if number % 2:
                right = (right + _derive(round_key[pending], left)) % height[pending]
            else:
                left = (left + _derive(round_key[pending], right)) % width[pending]
        result[pending] = left * height[pending] + right
        pending = pending[result[pending] >= size[pending]]
    return result


def _derive(key: UInt64, value: UInt64 | int) -> UInt64:
    """Hash a value under a key into 64 well-mixed bits."""
    number = np.asarray(value, dtype=np.uint64).reshape(-1)
    return _mix(key ^ _mix(number + GOLDEN))


def _mix(value: UInt64) -> UInt64:
    """Finalise as splitmix64 does (Steele, Lea and Flood, 2014): every bit depends on all others."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
