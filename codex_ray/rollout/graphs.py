"""Decoding steps as CUDA graphs: a small model's step is then one call instead of hundreds.

A graph has fixed shapes and addresses: slots have one length from the start, numbers of rows are rounded up
to a power of two, and the rows that are too many write to a position that no sequence uses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

WARM_UPS = 2
"""Steps before a capture: kernels are chosen and compiled in them."""


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    tokens_R: Tensor
    positions_R: Tensor
    logits_RV: Tensor


class StepGraphs:
    """Captures a step at its first use with a number of rows, and replays it.

    Args:
        decode: maps tokens and their positions, both ``[R]``, to logits, ``[R, V]``.
        slots: most rows.
        spare: the position that no sequence uses.
        device: a CUDA device.
    """

    def __init__(
        self, decode: Callable[[Tensor, Tensor], Tensor], slots: int, spare: int, device: torch.device
    ) -> None:
        self._decode, self._slots, self._spare, self._device = decode, slots, spare, device
        self.captured: dict[int, _Captured] = {}

    def __call__(self, tokens: list[int], positions: list[int]) -> Tensor:
        """The logits after each row's token, [R, V]."""
        rows = len(tokens)
        size = min(self._slots, 1 << (rows - 1).bit_length())
        if size not in self.captured:
            self.captured[size] = self._capture(size)
        found, idle = self.captured[size], size - rows
        found.tokens_R.copy_(torch.tensor(tokens + idle * [0]))
        found.positions_R.copy_(torch.tensor(positions + idle * [self._spare]))
        found.graph.replay()
        return found.logits_RV[:rows].clone()

    def _capture(self, size: int) -> _Captured:
        tokens_R = torch.zeros(size, dtype=torch.int64, device=self._device)
        positions_R = torch.full_like(tokens_R, self._spare)
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._decode(tokens_R, positions_R)
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits_RV = self._decode(tokens_R, positions_R)
        return _Captured(graph, tokens_R, positions_R, logits_RV)
