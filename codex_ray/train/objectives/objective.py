"""What the loop asks of an objective, and the figures that objectives report.

An objective is asked, on all ranks together and in this order, once per optimizer step: ``prepare`` for this
rank's micro-batches, ``weight`` of each, ``loss`` of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Micro = TypeVar("Micro")

Forward = Callable[..., Any]
"""The model's forward, as the engine wants it called."""

AddUp = Callable[[Tensor], Tensor]
"""Adds a tensor up over all ranks, fp64, and returns the sum."""

Weights = Callable[[], AbstractContextManager[Any]]
"""A context in which the model's forward computes with other weights; ``nullcontext`` for the same."""


class Figures:
    """Means over the global batch, reported beside the loss.

    Args:
        names: of what is measured, the same on every rank.
    """

    def __init__(self, *names: str) -> None:
        self.names = names
        self._sums: dict[str, tuple[Tensor | float, Tensor | float]] = dict.fromkeys(names, (0.0, 0.0))

    def add(self, name: str, total: Tensor | float, count: Tensor | float) -> None:
        """Take in a sum, and how many it is of."""
        before, so_far = self._sums[name]
        total = total.detach() if isinstance(total, Tensor) else total
        self._sums[name] = (before + total, so_far + count)

    def take(self) -> list[float]:
        """Return sums and counts of this rank since the last time; they are to be added up over ranks."""
        taken = [float(number) for name in self.names for number in self._sums[name]]
        self._sums = dict.fromkeys(self.names, (0.0, 0.0))
        return taken

    def means(self, added_up: Sequence[float]) -> dict[str, float]:
        """Return the means by name, of what all ranks' :meth:`take` add up to; without what none has seen."""
        pairs = zip(self.names, added_up[::2], added_up[1::2], strict=True)
        return {name: total / count for name, total, count in pairs if count}


class Objective(Generic[Micro]):
    """What a training step minimises; subclasses give ``weight`` and ``loss``.

    One that a package brings is made with a :class:`~codex_ray.model.head.TokenHead` and ``reference=``, the
    context of the weights that the run began from, and takes ``Sequences``.
    """

    rows = "answers"
    """What one that a package brings learns from: answers, or preferences, the chosen before the rejected."""

    compared = False
    """Whether one that a package brings needs the weights that the run began from."""

    shared_by = 1
    """Ranks that hold the same rows."""

    even = False
    """Whether every rank's weights are equal."""

    per_token = False
    """Whether the loss is in nats per token of text, so that bits per byte follow from it."""

    def __init__(self, *figures: str) -> None:
        self.figures = Figures(*figures)

    def prepare(self, forward: Forward, micros: list[Micro], add_up: AddUp) -> list[Micro]:
        """Add to the micro-batches what takes a forward pass, or all of the batch; no gradients."""
        return micros

    def weight(self, micro: Micro) -> int:
        """This micro-batch's share of what the global loss is divided by."""
        raise NotImplementedError

    def loss(self, forward: Forward, micro: Micro, total_weight: int) -> Tensor:
        """Return this micro-batch's share of the global loss."""
        raise NotImplementedError


def add_up_over_ranks(sums: Tensor) -> Tensor:
    """The sum over all ranks."""
    total = sums.to(torch.float64)
    dist.all_reduce(total)
    return total


def nothing_added(sums: Tensor) -> Tensor:
    """The sum over ranks where there is one rank."""
    return sums.to(torch.float64)
