"""What a model makes of a text that is there already: its tokens' log-probabilities, and its embedding.

Tensor names end in their shape: S tokens of a text, Q tokens of a part, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import DynamicCache

from codex_ray.rollout.lora import Adapter, adapted

PART = 512
"""Tokens read at a time, so that logits of a long text never lie in memory together."""


@dataclass(frozen=True)
class Scored:
    """A token of a text: the log of its probability given those before, and the likeliest in its place."""

    token: int
    logprob: float | None
    top: list[tuple[int, float]]


def scores(
    model: Any, ids: Sequence[int], top: int, adapter: Adapter | None = None
) -> Iterator[list[Scored]]:
    """Score a text part by part; its first token has no score, since nothing predicts it."""
    yield [Scored(ids[0], None, [])]
    cache = DynamicCache(config=model.config)
    for start in range(0, len(ids) - 1, PART):
        part = list(ids[start : min(start + PART, len(ids) - 1)])
        nexts = list(ids[start + 1 : start + 1 + len(part)])
        with adapted(model, adapter, len(part)):
            found = _part(model, cache, part, start, nexts, top)
        yield found


@torch.inference_mode()
def _part(
    model: Any, cache: DynamicCache, part: list[int], start: int, nexts: list[int], top: int
) -> list[Scored]:
    device = model.device
    positions_1Q = torch.arange(start, start + len(part), device=device)[None]
    ids_1Q = torch.tensor([part], device=device)
    logits_QV = model(ids_1Q, position_ids=positions_1Q, past_key_values=cache, use_cache=True).logits[0]
    logprobs_QV = logits_QV.float().log_softmax(dim=-1)
    own_Q = logprobs_QV.gather(-1, torch.tensor(nexts, device=device)[:, None])[:, 0].tolist()
    tops: list[list[tuple[int, float]]] = [[]] * len(part)
    if top:
        values_QK, tokens_QK = logprobs_QV.topk(min(top, logprobs_QV.shape[-1]), dim=-1)
        tops = [
            list(zip(tokens, values, strict=True))
            for tokens, values in zip(tokens_QK.tolist(), values_QK.tolist(), strict=True)
        ]
    return [Scored(*one) for one in zip(nexts, own_Q, tops, strict=True)]


def embedding(model: Any, ids: Sequence[int], adapter: Adapter | None = None) -> Iterator[list[float]]:
    """Read a text part by part: nothing, and at last its mean last hidden state at length 1, [D]."""
    cache, total_D = DynamicCache(config=model.config), torch.zeros(())
    for start in range(0, len(ids), PART):
        part = list(ids[start : start + PART])
        with adapted(model, adapter, len(part)):
            total_D = total_D.to(model.device) + _states(model, cache, part, start)
        if start + PART < len(ids):
            yield []
    yield functional.normalize(total_D / len(ids), dim=0).tolist()


@torch.inference_mode()
def _states(model: Any, cache: DynamicCache, part: list[int], start: int) -> Tensor:
    """The sum of the last hidden states of a part, [D]."""
    positions_1Q = torch.arange(start, start + len(part), device=model.device)[None]
    ids_1Q = torch.tensor([part], device=model.device)
    read = model.base_model(ids_1Q, position_ids=positions_1Q, past_key_values=cache, use_cache=True)
    hidden_QD: Tensor = read.last_hidden_state[0]
    return hidden_QD.float().sum(dim=0)
