"""A causal language model with slots for keys and values: prompts are read into them, and tokens added.

Tensor names end in their shape: R rows, Q new tokens of a row, T positions looked at, V vocabulary.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from codex_ray.errors import ConfigError
from codex_ray.rollout.attention import Span
from codex_ray.rollout.decoder import PackedDecoder, packable
from codex_ray.rollout.graphs import StepGraphs
from codex_ray.rollout.lora import Adapter, Beside
from codex_ray.rollout.pages import PagedCache
from codex_ray.rollout.slots import Extension, Placement, Prompts, SlotCache, Step, attending_slots, visible

PREFILL_TOKENS = 512
"""Most tokens of prompts read in a step."""


class CachedModel:
    """The model with its slots: whole prompts, the rest of one, or one token more of each row."""

    def __init__(self, model: Any, slots: int, capacity: int, *, graphs: bool = False) -> None:
        self.model, self.device = model, next(model.parameters()).device
        configuration = model.config.get_text_config()
        self.vocabulary: int = configuration.vocab_size
        layers = DynamicCache(config=model.config).layers
        if not layers or any(type(one) not in (DynamicLayer, DynamicSlidingWindowLayer) for one in layers):
            raise ConfigError(
                f"layers of a {configuration.model_type} model keep something else than keys and values of "
                "single tokens, which sampling here needs; use another model"
            )
        self._packed = PackedDecoder(model, slots, capacity) if packable(model) else None
        self._slots = SlotCache(len(layers), slots, capacity, fixed=graphs)
        self.cache: SlotCache | PagedCache = self._slots if self._packed is None else self._packed.cache
        self._windows = {getattr(one, "sliding_window", None) for one in layers}
        self._dtype = model.get_input_embeddings().weight.dtype
        accepted = inspect.signature(model.forward).parameters
        any_keyword = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in accepted.values())
        self._takes_positions = any_keyword or "position_ids" in accepted
        self._adapted = False  # whether there ever was an adapter
        self.graphs = StepGraphs(self._decode, slots, capacity, self.device) if graphs else None

    def position_bytes(self) -> int:
        """What the keys and values of one token take; a token is read to know, where it is not plain."""
        if self._packed is None and not self._slots.layers[0].is_initialized:
            with inference(self.model):
                self._read([Span(0, [0], 0)])
        return self.cache.position_bytes

    def refresh(self) -> None:
        """Take up weights that have changed; graphs look at the same memory, whatever it holds."""
        if self._packed is not None:
            self._packed.pack()

    def run(
        self,
        tokens: list[int],
        positions: list[int],
        spans: Sequence[Span],
        adapters: Sequence[Adapter | None],
    ) -> Tensor:
        """Give each row of the first slots one token at its position, and read the rest of prompts.

        Returns:
            the logits after each row's token and after each prompt, [R + prompts, V].
        """
        if self._packed is not None:
            return self._packed.run(tokens, positions, spans, adapters)
        try:
            return self._run(tokens, positions, spans, adapters)
        finally:
            self._adapt(())  # others use the model, too

    def _run(
        self,
        tokens: list[int],
        positions: list[int],
        spans: Sequence[Span],
        adapters: Sequence[Adapter | None],
    ) -> Tensor:
        self._adapt(adapters)
        logits = [self._step(tokens, positions)] if tokens else []
        if whole := [span for span in spans if not span.past]:
            self._adapt([span.adapter for span in whole for _ in span.tokens])
            after = dict(zip((span.slot for span in whole), self._read(whole).split(1), strict=True))
        logits += [after[span.slot] if span in whole else self._extend(span) for span in spans]
        return torch.cat(logits)

    def _read(self, prompts: Sequence[Span]) -> Tensor:
        """Read whole prompts into their slots, all in one row; the logits after each, [R, V]."""
        ends = list(itertools.accumulate(len(prompt.tokens) for prompt in prompts))
        spans = [(one.slot, end - len(one.tokens), end) for one, end in zip(prompts, ends, strict=True)]
        ids = [token for prompt in prompts for token in prompt.tokens]
        lengths = torch.tensor([len(prompt.tokens) for prompt in prompts], device=self.device)
        document_T = torch.arange(len(prompts), device=self.device).repeat_interleave(lengths)
        place_T = torch.arange(len(ids), device=self.device)
        positions_T = place_T - (lengths.cumsum(0) - lengths)[document_T]
        same = document_T[:, None] == document_T
        ids_1T = torch.tensor([ids], device=self.device)
        return self._forward(
            Prompts(spans), ids_1T, positions_T[None], place_T[None], place_T, lengths.cumsum(0) - 1, same
        )

    def _adapt(self, adapters: Sequence[Adapter | None]) -> None:
        """Say whose each token of the next pass is."""
        if not self._adapted and not any(adapters):
            return
        if self.graphs is not None:
            raise ConfigError("adapters beside a model cannot be captured in graphs; leave out graphs=True")
        self._adapted = True
        Beside.hooked(self.model).of(adapters, self.device)

    def _extend(self, span: Span) -> Tensor:
        """Read a prompt's tokens behind those that its slot holds; the logits after them, [1, V]."""
        self._adapt([span.adapter] * len(span.tokens))
        end = span.past + len(span.tokens)
        queries_1Q = torch.arange(span.past, end, device=self.device)[None]
        keys_T = torch.arange(end, device=self.device)
        ids_1Q = torch.tensor([span.tokens], device=self.device)
        last = torch.tensor([len(span.tokens) - 1], device=self.device)
        return self._forward(Extension(span.slot, span.past), ids_1Q, queries_1Q, queries_1Q, keys_T, last)

    def _step(self, tokens: list[int], positions: list[int]) -> Tensor:
        """Give each row of the first slots one token at its position; the logits after them, [R, V]."""
        if self.graphs is not None:
            return self.graphs(tokens, positions)
        return self._decode(*(torch.tensor(given, device=self.device) for given in (tokens, positions)))

    def _decode(self, tokens_R: Tensor, positions_R: Tensor) -> Tensor:
        rows_R = torch.arange(len(tokens_R), device=self.device)
        keys_T = torch.arange(self._slots.room, device=self.device)
        place, queries_RQ = Step(rows_R, positions_R, self._slots.room - 1), positions_R[:, None]
        return self._forward(place, tokens_R[:, None], queries_RQ, queries_RQ, keys_T, rows_R[:1])

    def _forward(
        self,
        place: Placement,
        ids_RQ: Tensor,
        positions_RQ: Tensor,
        queries_RQ: Tensor,
        keys_T: Tensor,
        kept: Tensor,
        same: Tensor | None = None,
    ) -> Tensor:
        """Run the model; the logits at the places ``kept`` of each row, rows and places flattened."""
        self._slots.place = place
        masks = {}
        for window in self._windows:
            seen = visible(queries_RQ, keys_T, window)
            seen = seen if same is None else seen & same
            kind = "full_attention" if window is None else "sliding_attention"
            masks[kind] = torch.zeros(seen.shape, dtype=self._dtype, device=self.device).masked_fill(
                ~seen, torch.finfo(self._dtype).min
            )
        positions = {"position_ids": positions_RQ} if self._takes_positions else {}
        with attending_slots(self.model):
            output = self.model(
                input_ids=ids_RQ,
                attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
                past_key_values=self._slots,
                use_cache=True,
                logits_to_keep=kept,
                **positions,
            )
        logits_RV: Tensor = output.logits.flatten(0, 1)
        return logits_RV


@contextmanager
def inference(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients, and the mode it was in afterwards."""
    training = model.training
    if training:  # telling every module costs as much as a layer of a small model
        model.eval()
    try:
        # Not inference mode: a model may keep buffers made here, and train with them later.
        with torch.no_grad():
            yield
    finally:
        if training:
            model.train()
