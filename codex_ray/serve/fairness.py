"""Whose request is next: the owner who was served least.

Virtual token counter: each owner has a count of the tokens computed for it, prompts' at a lower price, and
the waiting owner with the smallest count is next. One who comes anew begins at the smallest count of those
who are there, so that nobody saves up (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024,
Algorithm 2).
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Generic, TypeVar

Item = TypeVar("Item")

PROMPT_PRICE, DRAWN_PRICE = 1, 2
"""Of a token that is read and of one that is drawn, as in the paper."""


class FairQueue(Generic[Item]):
    """Waiting items by owner."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Item]] = {}
        self._counts: dict[str, int] = {}
        self._active: Counter[str] = Counter()  # items of an owner that wait or run
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, owner: str, item: Item) -> None:
        """Add an item at the end of its owner's."""
        if not self._active[owner]:
            present = [self._counts[one] for one, active in self._active.items() if active]
            self._counts[owner] = max(self._counts.get(owner, 0), min(present, default=0))
        self._active[owner] += 1
        self._waiting.setdefault(owner, deque()).append(item)
        self._length += 1

    def pop(self) -> Item:
        """Take the next item; :meth:`done` is called once it has ended."""
        return self._take(min(self._waiting, key=lambda one: self._counts[one]), 0)

    def charge(self, owner: str, *, read: int = 0, drawn: int = 0) -> None:
        """Count tokens computed for an owner."""
        if owner in self._counts:
            self._counts[owner] += PROMPT_PRICE * read + DRAWN_PRICE * drawn

    def remove(self, owner: str, item: Item) -> bool:
        """Take an item out of the queue and of the system; whether it was there."""
        line = self._waiting.get(owner)
        if line is None or item not in line:
            return False
        self._take(owner, line.index(item))
        self.done(owner)
        return True

    def done(self, owner: str) -> None:
        """An item that was taken has ended."""
        self._active[owner] -= 1
        if self._active[owner] <= 0:
            del self._active[owner]
            if not self._active:
                self._counts.clear()  # nobody is there to be fair to

    def _take(self, owner: str, place: int) -> Item:
        line = self._waiting[owner]
        item = line[place]
        del line[place]
        if not line:
            del self._waiting[owner]
        self._length -= 1
        return item
