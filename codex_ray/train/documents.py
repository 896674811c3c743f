"""Where documents begin in packed rows, and what follows from it for attention, positions and targets.

Rows of a corpus do not say where their documents are: the tokens do (:class:`Documents`). Rows of examples
are marked (:class:`MarkedRows`). A document begins at ``<s>`` and after ``</s>``;
where one token is both, at the second of two. Padding is what is left of a row after its last document.

Shape legend: B batch, S sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from codex_ray.corpus.marked import BEGINS, IDS, LEARNT
from codex_ray.model import IGNORED
from codex_ray.tokenizer import Tokenizer


class Rows(Protocol):
    """What packed rows are to an objective."""

    def ids(self, rows_BS: Tensor) -> Tensor:
        """Return the token ids."""

    def labels(self, rows_BS: Tensor) -> Tensor:
        """Return the targets at their own places, -100 where none is counted."""

    def positions(self, rows_BS: Tensor) -> Tensor | None:
        """Return each token's position in its document; None where a row is one text."""


class MarkedRows:
    """Rows of examples, each apart from the others; see :mod:`codex_ray.corpus.marked`."""

    def ids(self, rows_BS: Tensor) -> Tensor:
        """Return the token ids."""
        return rows_BS & IDS

    def labels(self, rows_BS: Tensor) -> Tensor:
        """Return the targets at their own places, -100 where none is counted."""
        return (rows_BS & IDS).masked_fill(rows_BS & LEARNT == 0, IGNORED)

    def positions(self, rows_BS: Tensor) -> Tensor:
        """Return each token's position in its example."""
        return _since(rows_BS & BEGINS != 0)


@dataclass(frozen=True)
class Documents:
    """What packed rows are to a run.

    Args:
        separate: whether documents are kept apart, each as if it stood alone; otherwise a row is one
            text, whose documents follow one another.
        begin_id: the token a document begins with; None where there is none.
        end_id: the token a document ends with.
        pad_id: the token that fills up a row.
    """

    separate: bool
    begin_id: int | None
    end_id: int
    pad_id: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, *, separate: bool) -> Documents:
        """Take the special tokens from the tokenizer that the rows were made with."""
        ids = tokenizer.special_ids
        return cls(separate, tokenizer.bos_id, ids["eos"], ids["pad"])

    def ids(self, input_ids_BS: Tensor) -> Tensor:
        """Return the token ids, which the rows are."""
        return input_ids_BS

    def padding(self, input_ids_BS: Tensor) -> Tensor:
        """Return where rows are filled up: the padding tokens that only such tokens follow.

        Where the end token also pads, the first of several is the last document's own.
        """
        filled = input_ids_BS == self.pad_id
        trailing = filled.flip(1).cumprod(1).flip(1).bool()
        if self.pad_id == self.end_id:
            trailing[:, 1:] &= filled[:, :-1]
            trailing[:, 0] = False
        return trailing

    def beginnings(self, input_ids_BS: Tensor) -> Tensor:
        """Return the first token of each document, and of the padding, as true."""
        after_end = torch.zeros_like(input_ids_BS, dtype=torch.bool)
        after_end[:, 1:] = input_ids_BS[:, :-1] == self.end_id
        if self.begin_id is None:
            begins = after_end
        else:
            begins = input_ids_BS == self.begin_id
            # After an end without a beginning stands the rest of a document that best-fit packing cut.
            begins = begins & after_end if self.begin_id == self.end_id else begins | after_end
        padding = self.padding(input_ids_BS)
        begins[:, 1:] |= padding[:, 1:] & ~padding[:, :-1]
        begins = begins & ~(padding & padding.roll(1, 1))
        begins[:, 0] = True
        return begins

    def labels(self, input_ids_BS: Tensor) -> Tensor:
        """Return the targets at their own places, -100 where none is counted.

        Padding is never one. The first token of a row has nothing before it; with documents kept apart
        neither has the first of any document.
        """
        ignored = self.padding(input_ids_BS)
        if self.separate:
            ignored = ignored | self.beginnings(input_ids_BS)
        ignored[:, 0] = True
        return input_ids_BS.masked_fill(ignored, IGNORED)

    def positions(self, input_ids_BS: Tensor) -> Tensor | None:
        """Return each token's position in its document; None where a row is one text."""
        if not self.separate:
            return None
        return _since(self.beginnings(input_ids_BS))


def _since(begins_BS: Tensor) -> Tensor:
    """Return how far each place is from the last that begins something."""
    places = torch.arange(begins_BS.shape[1], device=begins_BS.device).expand_as(begins_BS)
    return places - torch.where(begins_BS, places, 0).cummax(1).values
