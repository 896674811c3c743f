"""Objectives on sequences, given marked rows of packed examples.

Shape legend: B rows, S sequence.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from codex_ray.corpus.marked import BEGINS, IDS, LEARNT
from codex_ray.train.documents import MarkedRows
from codex_ray.train.objectives.objective import AddUp, Forward, Objective
from codex_ray.train.objectives.sequences import Sequences


class Decoded(Objective[Any]):
    """Another objective, whose sequences are taken out of marked rows.

    Args:
        inner: the objective.
        decode: makes sequences of a micro-batch of rows.
    """

    def __init__(self, inner: Objective[Sequences], decode: Callable[[Tensor], Sequences]) -> None:
        super().__init__()
        self._inner, self._decode = inner, decode
        self.figures, self.per_token = inner.figures, inner.per_token

    def prepare(self, forward: Forward, micros: list[Any], add_up: AddUp) -> list[Any]:
        """See :meth:`Objective.prepare`."""
        return self._inner.prepare(forward, [self._decode(rows_BS) for rows_BS in micros], add_up)

    def weight(self, micro: Sequences) -> int:
        """See :meth:`Objective.weight`."""
        return self._inner.weight(micro)

    def loss(self, forward: Forward, micro: Sequences, total_weight: int) -> Tensor:
        """See :meth:`Objective.loss`."""
        return self._inner.loss(forward, micro, total_weight)


def packed(rows_BS: Tensor) -> Sequences:
    """Leave examples packed as they are, apart by their positions."""
    marks = MarkedRows()
    ids_BS, labels_BS = marks.ids(rows_BS), marks.labels(rows_BS)
    lengths_B = torch.full((rows_BS.shape[0],), rows_BS.shape[1], device=rows_BS.device)
    return Sequences(ids_BS, labels_BS >= 0, lengths_B, position_ids_BS=marks.positions(rows_BS))


def one_by_one(rows_BS: Tensor) -> Sequences:
    """Give every example a row of its own, in their order; padding goes."""
    ids, masks = [], []
    for row_S in rows_BS.cpu():
        begins = [*(row_S & BEGINS).nonzero().flatten().tolist(), len(row_S)]
        for start, stop in itertools.pairwise(begins):
            learnt_S = row_S[start:stop] & LEARNT != 0
            if bool(learnt_S.any()):
                ids.append((row_S[start:stop] & IDS).tolist())
                masks.append(learnt_S.tolist())
    return Sequences.of(ids, masks).to(rows_BS.device)
