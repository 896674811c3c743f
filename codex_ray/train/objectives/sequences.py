"""Sequences of unequal length with a mask of the tokens that count: what objectives take.

Rows are padded on the right. Attention is causal and positions begin at 0 in every row, so padding changes
nothing before it and needs no attention mask. Which tokens count is said by lengths and masks, never by
comparing ids: a model's padding may be its end token.

Shape legend: B rows, S sequence, T tokens that count, row after row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from codex_ray.errors import CodexRayError
from codex_ray.train.objectives.batching import micro_batches
from codex_ray.train.objectives.shared import Laid, lay, together


@dataclass(frozen=True)
class Sequences:
    """A padded batch of rows.

    Attributes:
        input_ids_BS: token ids, int64.
        mask_BS: tokens that the policy sampled or that are to be learnt, bool, at their own index; never the
            first of a row, which nothing comes before.
        lengths_B: tokens of each row without padding, int64.
        tokens: what is known of each token, fp32 or wider, [B, S], at its own index; where the mask is false
            it says nothing. ``sampler_logprobs``, ``advantages``, ...
        rows: what is known of each row, [B]. ``rewards``, ...
        position_ids_BS: positions, where a row holds several packed examples; None counts from 0.
        shared: what attention is worth (:func:`.shared.attention_worth`), by which micro-batches compute a
            prompt once for several rows; 0 computes every row by itself.
        laid: how many rows, one after another, are computed as one; none of them where it is empty.
    """

    input_ids_BS: Tensor
    mask_BS: Tensor
    lengths_B: Tensor
    tokens: Mapping[str, Tensor] = field(default_factory=dict)
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    position_ids_BS: Tensor | None = None
    shared: int = 0
    laid: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        ids: Several[Several[int]],
        masks: Several[Several[bool]],
        *,
        tokens: Mapping[str, Several[Several[float]]] | None = None,
        rows: Mapping[str, Several[float]] | None = None,
        pad_id: int = 0,
    ) -> Sequences:
        """Pad rows given as lists, on the CPU.

        Args:
            ids: token ids of each row; masks: which of them count.
            tokens: by name, a number for each token of each row; rows: a number for each row.
            pad_id: any token of the vocabulary.

        Raises:
            CodexRayError: a row is empty, its first token counts, or lists are not of its length.
        """
        tokens, rows = tokens or {}, rows or {}
        for name, lists in {"mask": masks, **tokens}.items():
            found, wanted = [len(one) for one in lists], [len(row) for row in ids]
            if found != wanted:
                raise CodexRayError(
                    f"{name} has {found[:8]} numbers in the first rows, which have {wanted[:8]} tokens; give "
                    "one for every token, those of the prompt included"
                )
        for name, numbers in rows.items():
            if len(numbers) != len(ids):
                raise CodexRayError(
                    f"{name} has {len(numbers)} numbers for {len(ids)} rows; give one for each"
                )
        for number, (row, mask) in enumerate(zip(ids, masks, strict=True)):
            if not row or mask[0]:
                raise CodexRayError(
                    f"row {number} has {'no tokens' if not row else 'no prompt'}, so nothing comes before "
                    "its first answer; begin it with at least one token that is not to be learnt"
                )
        return cls(
            input_ids_BS=_padded(ids, pad_id, torch.int64),
            mask_BS=_padded(masks, False, torch.bool),
            lengths_B=torch.tensor([len(row) for row in ids], dtype=torch.int64),
            tokens={name: _padded(lists, 0.0, torch.float32) for name, lists in tokens.items()},
            rows={name: torch.tensor(numbers, dtype=torch.float32) for name, numbers in rows.items()},
        )

    @classmethod
    def of_completions(
        cls,
        prompts: Several[Several[int]],
        completions: Several[Several[int]],
        *,
        masks: Several[Several[bool]] | None = None,
        logprobs: Several[Several[float]] | None = None,
        rows: Mapping[str, Several[float]] | None = None,
        pad_id: int = 0,
        shared: int = 0,
    ) -> Sequences:
        """Put sampled ids behind their prompts' ids, as they are: nothing is decoded and encoded again.

        Args:
            prompts: token ids of each prompt; completions: the sampled ids, the end token included.
            masks: which tokens of a completion the policy sampled; unset is all of them. Forced text and a
                tool's observations are false.
            logprobs: the sampler's log-probability of each token of a completion, kept as
                ``sampler_logprobs``.
            rows: numbers for each row.
            pad_id: any token of the vocabulary.
            shared: see the class.

        Raises:
            CodexRayError: lists do not fit together.
        """
        chosen = masks if masks is not None else [[True] * len(one) for one in completions]
        pairs = list(zip(prompts, completions, strict=True))
        known = {}
        if logprobs is not None:
            known["sampler_logprobs"] = [
                [0.0] * len(prompt) + list(one) for prompt, one in zip(prompts, logprobs, strict=True)
            ]
        made = cls.of(
            [[*prompt, *completion] for prompt, completion in pairs],
            [[False] * len(prompt) + list(one) for prompt, one in zip(prompts, chosen, strict=True)],
            tokens=known,
            rows=rows,
            pad_id=pad_id,
        )
        return dataclasses.replace(made, shared=shared)

    @property
    def shape(self) -> torch.Size:
        """Rows and tokens per row, padding included, as a tensor has it."""
        return self.input_ids_BS.shape

    @cached_property
    def _laid(self) -> Laid | None:
        return lay(self) if self.laid else None

    @property
    def places(self) -> Tensor:
        """Where, in the flattened batch, the logits of the tokens that count stand: one before them, [T]."""
        if self._laid is not None:
            return self._laid.places_T
        return self.mask_BS.flatten().nonzero().flatten() - 1

    @property
    def owners(self) -> Tensor:
        """The row of each token that counts, [T]."""
        return self.mask_BS.nonzero()[:, 0]

    @property
    def targets(self) -> Tensor:
        """Ids of the tokens that count, [T]."""
        return self.input_ids_BS[self.mask_BS]

    @property
    def counts(self) -> Tensor:
        """How many tokens of each row count, [B]."""
        return self.mask_BS.sum(1)

    @property
    def real(self) -> int:
        """Rows in which any token counts; others only keep ranks in step."""
        return int(self.mask_BS.any(1).sum())

    def at(self, name: str) -> Tensor:
        """What is known of the tokens that count, [T].

        Raises:
            CodexRayError: nothing of that name is.
        """
        if name not in self.tokens:
            raise CodexRayError(
                f"these sequences hold no {name} ({', '.join(self.tokens) or 'nothing'} only)"
            )
        return self.tokens[name][self.mask_BS]

    def sums(self, figures_T: Tensor) -> Tensor:
        """Add up, over each row, a figure of its tokens that count; [B]."""
        zeros_B = figures_T.new_zeros(self.shape[0])
        return zeros_B.index_add(0, self.owners, figures_T)

    def with_tokens(self, **figures_T: Tensor) -> Sequences:
        """Add figures of the tokens that count."""
        added = {}
        for name, figure_T in figures_T.items():
            added[name] = figure_T.new_zeros(self.shape).masked_scatter(self.mask_BS, figure_T)
        return dataclasses.replace(self, tokens={**self.tokens, **added})

    def with_rows(self, **figures_B: Tensor) -> Sequences:
        """Add figures of the rows."""
        return dataclasses.replace(self, rows={**self.rows, **figures_B})

    def inputs(self) -> dict[str, Tensor]:
        """What the model's forward takes."""
        if self._laid is not None:
            return self._laid.inputs
        given = {"input_ids": self.input_ids_BS}
        return given if self.position_ids_BS is None else given | {"position_ids": self.position_ids_BS}

    def to(self, device: torch.device) -> Sequences:
        """The same on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def take(self, indices: Several[int]) -> Sequences:
        """Some rows, in that order, with no more padding than they need."""
        chosen = torch.tensor(indices, dtype=torch.int64, device=self.lengths_B.device)
        longest = int(self.lengths_B[chosen].max()) if len(indices) else 1
        taken = self._each(lambda tensor: tensor[chosen, :longest] if tensor.dim() > 1 else tensor[chosen])
        return dataclasses.replace(taken, laid=())

    @staticmethod
    def joined(parts: Several[Sequences]) -> Sequences:
        """Put rows of several below one another; what is known of them must be the same."""
        longest = max(part.shape[1] for part in parts)

        def together(tensors: Several[Tensor]) -> Tensor:
            wide = [one if one.dim() < 2 else pad(one, (0, longest - one.shape[1])) for one in tensors]
            return torch.cat(wide)

        first = parts[0]
        return Sequences(
            input_ids_BS=together([part.input_ids_BS for part in parts]),
            mask_BS=together([part.mask_BS for part in parts]),
            lengths_B=together([part.lengths_B for part in parts]),
            tokens={name: together([part.tokens[name] for part in parts]) for name in first.tokens},
            rows={name: together([part.rows[name] for part in parts]) for name in first.rows},
            shared=first.shared,
        )

    def split(self, most_tokens: int, *, at_least: int = 1, unit: int = 1) -> list[Sequences]:
        """Cut into micro-batches of rows of like length, the longest first.

        Args:
            most_tokens: tokens of a micro-batch, padding included; only a longer unit exceeds it, alone.
            at_least: micro-batches wanted, so that every rank has as many as any other (ZeRO-3 needs it, as
                does a swap of weights between them); those too many hold nothing that counts.
            unit: rows, one after another, that stay together; 2 for pairs.
        """
        if self.shared and len(self.lengths_B):
            return self._split_shared(most_tokens, at_least)
        widest = self.lengths_B.view(-1, unit).max(1).values.tolist()
        chosen = micro_batches([unit * length for length in widest], most_tokens, at_least)
        parts = [[unit * one + row for one in units for row in range(unit)] for units in chosen]
        return [self.take(part) if part else self.blank(unit) for part in parts]

    def _split_shared(self, most_tokens: int, at_least: int) -> list[Sequences]:
        groups = together(self, most_tokens)
        parts = []
        for numbers in micro_batches([length for _, length in groups], most_tokens, at_least):
            chosen = [groups[number][0] for number in numbers]
            part = self.take([row for group in chosen for row in group]) if chosen else self.blank(1)
            alone = all(len(group) == 1 for group in chosen)
            parts.append(part if alone else dataclasses.replace(part, laid=tuple(map(len, chosen))))
        return parts

    def blank(self, rows: int) -> Sequences:
        """Rows of one token, in which nothing counts."""
        blank = self._each(lambda tensor: tensor.new_zeros((rows, 1)[: tensor.dim()]))
        return dataclasses.replace(blank, laid=())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Sequences:
        positions = self.position_ids_BS
        return Sequences(
            input_ids_BS=change(self.input_ids_BS),
            mask_BS=change(self.mask_BS),
            lengths_B=change(self.lengths_B),
            tokens={name: change(tensor) for name, tensor in self.tokens.items()},
            rows={name: change(tensor) for name, tensor in self.rows.items()},
            position_ids_BS=None if positions is None else change(positions),
            shared=self.shared,
            laid=self.laid,
        )


def _padded(lists: Several[Several[float]], filling: float, dtype: torch.dtype) -> Tensor:
    longest = max((len(one) for one in lists), default=0)
    padded_BS = torch.full((len(lists), longest), filling, dtype=dtype)
    for row, one in enumerate(lists):
        padded_BS[row, : len(one)] = torch.tensor(one, dtype=dtype)
    return padded_BS
