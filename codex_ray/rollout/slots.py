"""A key/value cache of slots: sequences that come and go at their own lengths, and attention over it.

Every sequence has a slot; those that are being continued lie in the first ones, and all slots are as long as
the longest of these needs at the time, so that a decoding step reads one piece of memory without gaps, whose
products take a third of the time of a slice's. What a slot holds after its sequence has ended stays readable
until it is needed: a later prompt that begins alike takes it over.

Tensor names end in their shape: R rows, Q new tokens of a row, T positions looked at, H heads, G key/value
heads, E head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION = "codex_ray_slots"

STEPS_AHEAD = 32
"""Positions made beyond what is needed, with an eighth of it: making more means copying all there is."""


class Placement(Protocol):
    """Where the keys and values of a forward pass go, and which ones it looks at."""

    @property
    def past(self) -> int:
        """Positions before the new ones; of several rows, the furthest."""

    def store(self, kept_SGCE: Tensor, new_RGQE: Tensor) -> Tensor:
        """Write the new ones into the slots and return those to look at, [R, G, T, E]."""


@dataclass(frozen=True)
class Prompts:
    """Whole prompts one after the other in a single row, each for a slot of its own.

    Attributes:
        spans: of each prompt, its slot and where in the row it begins and ends.
    """

    spans: Sequence[tuple[int, int, int]]
    past: int = 0

    def store(self, kept_SGCE: Tensor, new_RGQE: Tensor) -> Tensor:
        """Copy each prompt's part; the row looks at itself."""
        for slot, start, end in self.spans:
            kept_SGCE[slot, :, : end - start] = new_RGQE[0, :, start:end]
        return new_RGQE


@dataclass(frozen=True)
class Extension:
    """More tokens of the sequence in one slot, from position ``past`` on."""

    slot: int
    past: int

    def store(self, kept_SGCE: Tensor, new_RGQE: Tensor) -> Tensor:
        """Put them behind the others."""
        end = self.past + new_RGQE.shape[2]
        kept_SGCE[self.slot, :, self.past : end] = new_RGQE[0]
        return kept_SGCE[self.slot : self.slot + 1, :, :end]


@dataclass(frozen=True)
class Step:
    """One token more of each sequence in the first slots, at positions of their own.

    Attributes:
        rows_R: 0, 1, ...; ``positions_R``: where each sequence's token goes; ``past``: the last of a slot.
    """

    rows_R: Tensor
    positions_R: Tensor
    past: int

    def store(self, kept_SGCE: Tensor, new_RGQE: Tensor) -> Tensor:
        """Put each behind its own; what lies behind it is for the mask to hide."""
        kept_SGCE[self.rows_R, :, self.positions_R] = new_RGQE[:, :, 0]
        return kept_SGCE[: len(self.rows_R)]


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, all slots, made at its first use."""

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make room in the shape of the first keys and values."""
        self.keys, self.values = self._room(key_states), self._room(value_states)
        self.is_initialized = True

    def _room(self, new_RGQE: Tensor) -> Tensor:
        _, heads, _, size = new_RGQE.shape
        return new_RGQE.new_zeros(self._cache.lines, heads, self._cache.room, size)

    def resize(self) -> None:
        """Take over what fits of the cache's new size, one tensor after the other."""
        self.keys = self._resized(self.keys)
        self.values = self._resized(self.values)

    def _resized(self, kept_SGCE: Tensor) -> Tensor:
        _, heads, _, size = kept_SGCE.shape
        new_SGCE = kept_SGCE.new_empty(self._cache.lines, heads, self._cache.room, size)
        lines, room = min(len(kept_SGCE), len(new_SGCE)), min(kept_SGCE.shape[2], new_SGCE.shape[2])
        new_SGCE[:lines, :, :room] = kept_SGCE[:lines, :, :room]
        new_SGCE[:lines, :, room:] = 0  # hidden by a weight of 0, which no infinity may meet
        new_SGCE[lines:] = 0
        return new_SGCE

    @property
    def position_bytes(self) -> int:
        """What one position of one slot takes."""
        return sum(kept.shape[1] * kept.shape[3] * kept.itemsize for kept in (self.keys, self.values))

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store as the cache's placement says."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        place = self._cache.place
        return place.store(self.keys, key_states), place.store(self.values, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Positions that a query looks at, and the first of them."""
        return self._cache.place.past + query_length, 0

    def get_seq_length(self) -> int:
        """Positions before the new ones; of several rows, the furthest."""
        return self._cache.place.past

    def get_max_length(self) -> int:
        """Positions of a slot."""
        return self._cache.capacity


class SlotCache(Cache):
    """All layers' slots.

    Args:
        layers: of the model; ``slots``: most sequences at a time; ``capacity``: longest of them.
        fixed: all slots are as long as the longest may be, and one position longer, for good.

    Attributes:
        lines: slots that there is memory for; ``room``: positions of each.
    """

    def __init__(self, layers: int, slots: int, capacity: int, *, fixed: bool = False) -> None:
        self.slots, self.capacity, self.fixed = slots, capacity, fixed
        self.lines, self.room = slots, capacity + 1 if fixed else 1
        self.place: Placement = Prompts(())
        self._most = slots * capacity
        super().__init__(layers=[SlotLayer(self) for _ in range(layers)])

    def bound(self, positions: int) -> int:
        """Hold at most so many positions, before there are any; how many it will be."""
        self._most = positions
        return positions

    def holds(self, lengths: Sequence[int]) -> bool:
        """Whether sequences of these lengths fit together, all in slots as long as the longest needs."""
        return len(lengths) * max(lengths) <= self._most

    def prepare(self, lengths: Sequence[int], *_: Any) -> dict[int, int]:
        """Make slots long enough for the longest, and no more than four times what that takes.

        Shorter ones would be faster, and forget more of what later prompts may begin with.

        Args:
            lengths: of the sequences being continued, those that join included.

        Returns:
            slots that hold less than they may have done, and how many positions.
        """
        length, rows = max(lengths, default=1), len(lengths)
        settled = length <= self.room <= 4 * length + STEPS_AHEAD and rows <= self.lines
        if settled or self.fixed:
            return {}
        ample = min(length + length // 8 + STEPS_AHEAD, self.capacity)
        self.room = max(length, min(ample, self._most // max(rows, 1)))
        self.lines = min(self.slots, self._most // self.room)
        for layer in self.layers:
            if layer.is_initialized:
                layer.resize()
        return {slot: self.room if slot < self.lines else 0 for slot in range(self.slots)}

    ample = False  # slots grow as they are needed

    def take(self, slot: int, length: int) -> None:
        """Nothing: all slots are of one length."""

    def take_next(self, positions: Sequence[int]) -> None:
        """Nothing, likewise."""

    @property
    def position_bytes(self) -> int:
        """What one position of one sequence takes in all layers."""
        return sum(layer.position_bytes for layer in self.layers)

    def copy(self, source: int, target: int, length: int) -> None:
        """Give slot ``target`` the first ``length`` positions of ``source``."""
        for kept in self._tensors():
            kept[target, :, :length] = kept[source, :, :length]

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange the first ``length`` positions of two slots."""
        for kept in self._tensors():
            held = kept[one, :, :length].clone()
            kept[one, :, :length] = kept[other, :, :length]
            kept[other, :, :length] = held

    def _tensors(self) -> Iterator[Tensor]:
        for layer in self.layers:
            if layer.is_initialized:
                yield layer.keys
                yield layer.values


def visible(queries_RQ: Tensor, keys_T: Tensor, window: int | None) -> Tensor:
    """Say which positions a query may look at, [R, 1, Q, T]: its own and before, at most ``window`` back."""
    queries_R1Q1 = queries_RQ[:, None, :, None]
    seen = keys_T <= queries_R1Q1
    return seen if window is None else seen & (keys_T > queries_R1Q1 - window)


def slot_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of one query a row by plain matrix products, which PyTorch's own is slow at on a CPU."""
    if query.shape[2] > 1 or query.device.type != "cpu":
        attended, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return attended, None
    rows, heads, _, size = query.shape
    grouped_RGHE = query.view(rows, key.shape[1], heads // key.shape[1], size)
    scores_RGHT = grouped_RGHE @ key.transpose(2, 3)
    scores_RGHT = scores_RGHT * (size**-0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores_RGHT = scores_RGHT + attention_mask
    # Whatever its precision, PyTorch's softmax computes in float32 and rounds once.
    weights_RGHT = functional.softmax(scores_RGHT, dim=-1)
    return (weights_RGHT @ value).reshape(rows, 1, heads, -1), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, slot_attention)


@contextmanager
def attending_slots(model: Any) -> Iterator[None]:
    """Have a model that uses PyTorch's attention use :func:`slot_attention` meanwhile."""
    configurations = {id(model.config): model.config, id(text := model.config.get_text_config()): text}
    before = [(one, one._attn_implementation) for one in configurations.values()]
    for one, name in before:
        if name == "sdpa":
            one._attn_implementation = ATTENTION
    try:
        yield
    finally:
        for one, name in before:
            one._attn_implementation = name
