"""An exponential moving average of the weights, kept beside them in the optimizer's state.

Each rank averages the part of the fp32 weights that it updates, so a step needs no communication, and the
average travels with the optimizer's state: it is saved, loaded and cut anew with it, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

KEY = "average"


class Average:
    """The average after each update: ``a = d a + (1 - d) w``, beginning with the weights after the first.

    So that short runs are not ruled by their first weights, the decay of update t is
    ``min(decay, (1 + t) / (10 + t))``, as TensorFlow's ``ExponentialMovingAverage`` has it.

    Args:
        decay: of an update long after the start.
        optimizer: whose states hold the average, and a ``step`` that counts updates.
        masters: gives the fp32 weights that this rank updates, as the optimizer knows them.
        refresh: brings what the model computes with in line with the fp32 weights; every rank takes part.
    """

    def __init__(
        self,
        decay: float,
        optimizer: torch.optim.Optimizer,
        masters: Callable[[], list[Tensor]],
        refresh: Callable[[], None],
    ) -> None:
        self._decay, self._optimizer = decay, optimizer
        self._masters, self._refresh = masters, refresh

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after an update."""
        for master in self._masters():
            state = self._optimizer.state.get(master)
            if not state:  # never updated, so it is its own average
                continue
            if KEY not in state:
                state[KEY] = master.detach().clone()
                continue
            updates = int(state["step"])
            state[KEY].lerp_(master.detach(), 1.0 - min(self._decay, (1 + updates) / (10 + updates)))

    @torch.no_grad()
    def exchange(self) -> None:
        """Let weights and average change places; doing it twice changes nothing. Every rank takes part."""
        for master in self._masters():
            state = self._optimizer.state.get(master)
            if state and KEY in state:
                held = master.detach().clone()
                master.copy_(state[KEY])
                state[KEY].copy_(held)
        self._refresh()
