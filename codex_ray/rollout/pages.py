"""A key/value cache of pages: a decoding step reads each sequence's own tokens, however long others are.

A page holds some positions of one sequence. A layer's pages lie one behind the other in one tensor, and those
of the sequences being continued near its beginning, so that one product without gaps goes over all of them.
A sequence that has ended keeps its pages until they are needed: a later prompt that begins alike takes them.

Tensor names end in their shape: N pages read, R rows, S slots, G key/value heads, T positions, M tokens.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PAGE = 32
"""Positions of a page; fewer where a budget holds but few of them."""

READ_AT_A_TIME = 8
"""Numbers of pages read are multiples of this: oneDNN makes a kernel for each."""

SCATTERED = 1.25
"""Pages are moved together when more than this many times as many are read as are needed."""


class PagedCache:
    """All layers' pages, and whose they are.

    Args:
        layers: of the model; ``groups``: key/value heads; ``size``: of a head; ``dtype``: of keys and values.
        slots: most sequences at a time; ``capacity``: longest of them.

    Attributes:
        kept: of each layer, keys and then values, [2, pages, G, page, size].
        page: positions of each; ``most``: pages that there may be.
        ample: whether all slots can have their whole capacity, so that nothing is ever short.
        tables: of each slot, its pages in order; ``table_SN``: the same for kernels, where what is beyond a
            sequence's end means nothing.
    """

    def __init__(
        self, layers: int, groups: int, size: int, dtype: torch.dtype, slots: int, capacity: int
    ) -> None:
        self.lines = slots
        self.position_bytes = 2 * layers * groups * size * dtype.itemsize
        self.groups, self.size, self.dtype = groups, size, dtype
        self.tables: list[list[int]] = [[] for _ in range(slots)]
        self._layers, self._capacity = layers, capacity
        self._free: list[int] = []
        self._slot_N = np.zeros(0, np.int64)  # of each page; -1: nobody's
        self._order_N = np.zeros(0, np.int64)  # which of its sequence it is
        self._page_size(slots * capacity)
        longest = -(-capacity // self.page)
        self.most, self.ample = slots * longest, True
        self.table_SN = np.zeros((slots, longest), np.int64)

    def _page_size(self, positions: int) -> None:
        self.page = PAGE
        while self.page > 1 and positions < 4 * self.lines * self.page:
            self.page //= 2
        none = torch.zeros(2, 0, self.groups, self.page, self.size, dtype=self.dtype)
        self.kept = [none] * self._layers

    def bound(self, positions: int) -> int:
        """Hold at most so many positions, before there are any; how many it will be, in whole pages."""
        self._page_size(positions)
        self.most, self.ample = positions // self.page, False
        self.table_SN = np.zeros((self.lines, min(self.most, self.pages(self._capacity))), np.int64)
        return self.most * self.page

    @property
    def nbytes(self) -> int:
        """What keys and values take now."""
        return sum(kept.nbytes for kept in self.kept)

    def pages(self, length: int) -> int:
        """Pages of a sequence."""
        return -(-length // self.page)

    def holds(self, lengths: Sequence[int]) -> bool:
        """Whether sequences of these lengths fit together."""
        return sum(map(self.pages, lengths)) <= self.most

    def prepare(
        self, lengths: Sequence[int], rows: int, used: Sequence[int], begun: int | None = None
    ) -> dict[int, int]:
        """See to it that there are pages for sequences of these lengths.

        Args:
            lengths: of the sequences being continued, those that join included.
            rows: sequences that are in the first slots already; what others hold has ended.
            used: when each slot was used; the longest ago lose what they hold first.
            begun: a slot that holds the beginning of one of those that join, and loses nothing.

        Returns:
            slots that hold less than they did, and how many positions.
        """
        needed = sum(map(self.pages, lengths))
        ended = sorted({*range(rows, self.lines)} - {begun}, key=used.__getitem__)
        kept = sum(len(self.tables[slot]) for slot in ended)
        lost = {}
        for slot in ended:
            if needed + kept <= self.most:
                break
            kept -= len(self.tables[slot])
            self.take(slot, 0)
            lost[slot] = 0
        return lost

    def take(self, slot: int, length: int) -> None:
        """Give a slot the pages of a sequence this long, and no more."""
        table, count = self.tables[slot], self.pages(length)
        while len(table) > count:
            page = table.pop()
            self._slot_N[page] = -1
            heapq.heappush(self._free, page)
        for order in range(len(table), count):
            if not self._free:
                self._grow(count - order)
            page = heapq.heappop(self._free)
            self._slot_N[page], self._order_N[page] = slot, order
            self.table_SN[slot, order] = page
            table.append(page)

    def take_next(self, positions: Sequence[int]) -> None:
        """Give each of the first slots room for a token at its position, next to what it holds."""
        for slot, position in enumerate(positions):
            if position % self.page == 0:
                self.take(slot, position + 1)

    def _grow(self, more: int) -> None:
        before = len(self._slot_N)
        count = min(self.most, max(before + more, before + before // 2))
        for layer, kept in enumerate(self.kept):
            grown = kept.new_zeros(2, count, *kept.shape[2:])  # hidden by a weight of 0, no infinity may be
            grown[:, :before] = kept
            self.kept[layer] = grown
        for page in range(before, count):
            heapq.heappush(self._free, page)
        self._slot_N = np.concatenate([self._slot_N, np.full(count - before, -1)])
        self._order_N = np.concatenate([self._order_N, np.zeros(count - before, np.int64)])

    def copy(self, source: int, target: int, length: int) -> None:
        """Give slot ``target`` the first ``length`` positions of ``source``."""
        self.take(target, length)
        count = self.pages(length)
        there, here = torch.tensor(self.tables[target]), torch.tensor(self.tables[source][:count])
        for kept in self.kept:
            kept[:, there] = kept[:, here]

    def swap(self, one: int, other: int, _: int = 0) -> None:
        """Exchange what two slots hold; nothing is moved."""
        tables = self.tables
        tables[one], tables[other] = tables[other], tables[one]
        self.table_SN[[one, other]] = self.table_SN[[other, one]]
        self._slot_N[tables[one]], self._slot_N[tables[other]] = one, other

    def places(self, slot: int, start: int, end: int) -> np.ndarray:
        """Where keys of a slot's positions are among a layer's lines of a head's size, [T, G].

        Values are as many lines further on as there are keys: :attr:`half`.
        """
        positions_T = np.arange(start, end)
        page_T = np.array(self.tables[slot])[positions_T // self.page]
        return self._lines(page_T, positions_T)

    @property
    def half(self) -> int:
        """Lines of a layer's keys, or of its values."""
        return len(self._slot_N) * self.groups * self.page

    def last_places(self, positions: Sequence[int]) -> np.ndarray:
        """Where keys of the first slots' last positions are, [R, G]."""
        positions_R = np.array(positions, np.int64)
        return self._lines(self.table_SN[np.arange(len(positions)), positions_R // self.page], positions_R)

    def _lines(self, page_M: np.ndarray, positions_M: np.ndarray) -> np.ndarray:
        first_MG = page_M[:, None] * self.groups + np.arange(self.groups)
        lines_MG: np.ndarray = first_MG * self.page + positions_M[:, None] % self.page
        return lines_MG

    def read_by(self, positions: Sequence[int]) -> Reading:
        """What a step of the first slots reads, each up to its position."""
        rows = len(positions)
        needed, read = sum(map(len, self.tables[:rows])), self._end(rows)
        if read > SCATTERED * needed + READ_AT_A_TIME:
            self._gather(rows, needed)
            read = needed
        count = min(-(-read // READ_AT_A_TIME) * READ_AT_A_TIME, len(self._slot_N))
        slot_N = self._slot_N[:count]
        owned_N = (slot_N >= 0) & (slot_N < rows)
        return Reading(
            np.where(owned_N, slot_N, rows),
            np.where(owned_N, self._order_N[:count], 0),
            np.array([*positions, self.page]),
            self.page,
        )

    def _end(self, rows: int) -> int:
        return 1 + max(max(table) for table in self.tables[:rows])

    def _gather(self, rows: int, needed: int) -> None:
        """Exchange pages so that the first slots have the first."""
        active_N = (self._slot_N >= 0) & (self._slot_N < rows)
        far, near = needed + np.flatnonzero(active_N[needed:]), np.flatnonzero(~active_N[:needed])
        moved, to = np.concatenate([far, near]), np.concatenate([near, far])
        for kept in self.kept:
            kept[:, torch.from_numpy(to)] = kept[:, torch.from_numpy(moved)]
        for of_pages_N in (self._slot_N, self._order_N):
            of_pages_N[to] = of_pages_N[moved]
        for table in self.tables:
            table.clear()
        for page in np.argsort(self._order_N, kind="stable").tolist():
            if (slot := self._slot_N[page]) >= 0:
                self.table_SN[slot, len(self.tables[slot])] = page
                self.tables[slot].append(page)
        self._free = np.flatnonzero(self._slot_N < 0).tolist()  # in order, which a heap may be


@dataclass(frozen=True)
class Reading:
    """The pages that a step reads, which are the first ones.

    Attributes:
        slot_N: whose each is; R, one more than there are rows, where no row's.
        order_N: which of its sequence it is; ``positions_R``: up to where each row reads, and one more.
        page: positions of a page.
    """

    slot_N: np.ndarray
    order_N: np.ndarray
    positions_R: np.ndarray
    page: int

    def hidden(self, dtype: torch.dtype) -> Tensor:
        """What is added to scores so that no row looks beyond its position, [N, 1, page]."""
        left_N = self.positions_R[self.slot_N] - self.order_N * self.page
        beyond_NT = torch.from_numpy(np.arange(self.page) > left_N[:, None])
        return torch.zeros(beyond_NT.shape, dtype=dtype).masked_fill_(beyond_NT, -torch.inf)[:, None]

    def lines(self, heads: int) -> tuple[Tensor, int]:
        """Where pages' scores go so that a row's are side by side, [N * heads], and pages of the longest row.

        Scores of head h of row r are lines ``(r * heads + h) * longest`` and on.
        """
        longest = int(self.order_N.max()) + 1
        first_NH = self.slot_N[:, None] * heads + np.arange(heads)
        return torch.from_numpy((first_NH * longest + self.order_N[:, None]).ravel()), longest
