"""A second set of weights beside those that train: frozen as they were, or following them as an average.

Teachers and references are the trained model with these weights in place. They are kept in fp32, for in bf16
an average of rate 0.01 never moves, and cut as the engine cuts its own: each rank holds the part that it
updates, so that following takes no communication. With an adapter that is the adapter alone, which makes
of these weights a second adapter. They travel in the optimizer's state: saved, loaded and cut anew with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class HeldWeights:
    """Weights that begin as the model's: ``held <- rate * weights + (1 - rate) * held`` after each update.

    The engine makes them (``Engine.hold``), lets them follow and keeps them in its checkpoints. ``in_place``
    is called by all ranks together, as often on each: what the model computes with is then gathered anew from
    all ranks' parts, twice.

    Args:
        optimizer: whose state they travel in, once it has any of a weight.
        masters: gives the fp32 weights that this rank updates (``Engine``'s own, whole or in parts).
        refresh: brings what the model computes with in line with them; every rank takes part.
        rate: 0 keeps them as they are, 1 makes them a copy of the weights after each update.
        key: their name in the optimizer's state.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        masters: Callable[[], list[Tensor]],
        refresh: Callable[[], None],
        *,
        rate: float = 0.0,
        key: str = "held",
    ) -> None:
        self._optimizer, self._masters, self._refresh = optimizer, masters, refresh
        self._rate, self._key = rate, key
        self.begin()

    def begin(self) -> None:
        """Take the weights as they are, except for those that the optimizer's state holds already."""
        states = self._optimizer.state
        self._first: list[Tensor | None] = [
            None if self._key in states.get(master, {}) else master.detach().clone()
            for master in self._masters()
        ]

    def _keep(self) -> None:
        """Move into the optimizer's state of each weight, once it has any: an empty one must stay empty."""
        for place, master in enumerate(self._masters()):
            state = self._optimizer.state.get(master)
            if state and self._key not in state:
                state[self._key], self._first[place] = self._held(place, master), None

    @torch.no_grad()
    def update(self) -> None:
        """Follow the weights after an update that was applied."""
        self._keep()
        if not self._rate:
            return
        for place, master in enumerate(self._masters()):
            held = self._held(place, master)
            held.lerp_(master.detach().to(held), self._rate)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model compute with these weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for place, master in enumerate(self._masters()):
            held = self._held(place, master)
            own = master.detach().clone()
            master.copy_(held)
            held.copy_(own)
        self._refresh()

    def _held(self, place: int, master: Tensor) -> Tensor:
        held: Any = self._optimizer.state.get(master, {}).get(self._key)
        if held is None:
            held = self._first[place]
        found: Tensor = held
        return found
