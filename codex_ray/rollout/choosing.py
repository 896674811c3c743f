"""Choosing the next token from logits, reproducibly row by row.

A row draws one uniform number a step and inverts its cumulative distribution. The number comes from the
row's own generator, so a completion depends on its prompt and its seed and not on the rows beside it.

Tensor names end in their shape: B rows, V vocabulary, K tokens kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from codex_ray.rollout.sampling import Sampling

GREEDY_BELOW = 1e-5
"""Temperatures below this take the likeliest token: float32 holds no other score beside it."""

SHORTLIST = 256
"""Tokens looked at first for ``top_p``, which nearly always hold it; sorting all costs five times as much."""

BLOCK = 128
"""Tokens summed up at a time when one is drawn."""


def sample(logits_BV: Tensor, uniforms_B: Sequence[float], sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Draw one token per row; int64 ids ``[B]`` and the log of the probability each was drawn with ``[B]``.

    The smallest set whose probability reaches ``top_p`` is kept, the likeliest token always
    (nucleus sampling, arXiv 1904.09751); ``min_p`` is arXiv 2407.01082. Tokens at minus infinity are
    never drawn.

    Args:
        logits_BV: scores, any floating type; the softmax is float32, its sums float64.
        uniforms_B: one number in [0, 1) per row; greedy decoding ignores them.
        sampling: temperature, top-k, top-p and min-p.
    """
    if sampling.temperature < GREEDY_BELOW:
        tokens_B = logits_BV.argmax(dim=-1)
        return tokens_B, torch.zeros(len(tokens_B), device=logits_BV.device)
    scores_BV = logits_BV.float()
    if sampling.temperature != 1:
        scores_BV = (scores_BV - scores_BV.amax(dim=-1, keepdim=True)) / sampling.temperature
    vocabulary = scores_BV.shape[-1]
    if not 0 < sampling.top_k < vocabulary and sampling.top_p == 1:
        return draw(_likely(scores_BV.softmax(dim=-1), sampling), uniforms_B)
    scores_BV = scores_BV - scores_BV.amax(dim=-1, keepdim=True)
    if 0 < sampling.top_k < vocabulary:
        scores_BK, ids_BK = scores_BV.topk(sampling.top_k, dim=-1)
        total_B1 = scores_BK.exp().sum(dim=-1, keepdim=True, dtype=torch.float64)
        return _draw_sorted(_nucleus(scores_BK, total_B1, sampling), ids_BK, uniforms_B)
    total_B1 = scores_BV.exp().sum(dim=-1, keepdim=True, dtype=torch.float64)
    scores_BK, ids_BK = scores_BV.topk(min(SHORTLIST, vocabulary), dim=-1)
    shortlisted_B = scores_BK.exp().sum(dim=-1, dtype=torch.float64) >= sampling.top_p * total_B1[:, 0]
    tokens_B, logprobs_B = _draw_sorted(_nucleus(scores_BK, total_B1, sampling), ids_BK, uniforms_B)
    rest = torch.nonzero(~shortlisted_B)[:, 0]
    if len(rest):
        scores_BK, ids_BK = scores_BV[rest].sort(dim=-1, descending=True, stable=True)
        weights_BK = _nucleus(scores_BK, total_B1[rest], sampling)
        some_B = [uniforms_B[row] for row in rest.tolist()]
        tokens_B[rest], logprobs_B[rest] = _draw_sorted(weights_BK, ids_BK, some_B)
    return tokens_B, logprobs_B


def _draw_sorted(weights_BK: Tensor, ids_BK: Tensor, uniforms_B: Sequence[float]) -> tuple[Tensor, Tensor]:
    places_B, logprobs_B = draw(weights_BK, uniforms_B)
    return ids_BK.gather(-1, places_B[:, None]).squeeze(-1), logprobs_B


def _nucleus(scores_BK: Tensor, total_B1: Tensor, sampling: Sampling) -> Tensor:
    """Return weights of sorted scores, zero beyond the first tokens that hold ``top_p`` of the total."""
    weights_BK = scores_BK.exp()
    before_BK = weights_BK.cumsum(dim=-1, dtype=torch.float64) - weights_BK
    beyond_BK = before_BK >= sampling.top_p * total_B1
    beyond_BK[:, 0] = False
    return _likely(weights_BK.masked_fill(beyond_BK, 0.0), sampling)


def _likely(weights_BK: Tensor, sampling: Sampling) -> Tensor:
    """Drop weights below ``min_p`` of the likeliest token's."""
    if not sampling.min_p:
        return weights_BK
    return weights_BK.masked_fill(weights_BK < sampling.min_p * weights_BK.amax(-1, keepdim=True), 0.0)


def draw(weights_BK: Tensor, uniforms_B: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Draw one place per row by weight; int64 ``[B]`` and the log of the probability of each ``[B]``.

    Inverts the cumulative distribution of each row at its uniform number: first among blocks, then within
    one, because summing up all of a large vocabulary in order takes longer than the rest of a step's draw.

    Args:
        weights_BK: not below 0, fp32, and not all 0; they need not add up to 1.
        uniforms_B: one number in [0, 1) per row.
    """
    rows, missing = len(weights_BK), -weights_BK.shape[1] % BLOCK
    padded_BK = functional.pad(weights_BK, (0, missing)) if missing else weights_BK
    blocks_BMK = padded_BK.view(rows, -1, BLOCK)
    sums_BM = blocks_BMK.sum(dim=-1, dtype=torch.float64)
    ends_BM = sums_BM.cumsum(dim=-1)
    total_B1 = ends_BM[:, -1:]
    uniforms_B1 = torch.tensor(list(uniforms_B), dtype=torch.float64, device=weights_BK.device)[:, None]
    target_B1 = uniforms_B1 * total_B1
    block_B1 = _first_above(ends_BM, target_B1)
    before_B1 = (ends_BM - sums_BM).gather(-1, block_B1)
    within_BK = blocks_BMK[torch.arange(rows, device=weights_BK.device), block_B1[:, 0]]
    place_B1 = _first_above(within_BK.cumsum(dim=-1, dtype=torch.float64), target_B1 - before_B1)
    logprobs_B1 = (within_BK.gather(-1, place_B1) / total_B1).log().float()
    return (block_B1 * BLOCK + place_B1).squeeze(-1), logprobs_B1.squeeze(-1)


def _first_above(cumulative_BK: Tensor, target_B1: Tensor) -> Tensor:
    """Place of the first sum above the target, or next to it where rounding put it out of reach, [B, 1]."""
    # Staying from 0 to below the total makes that a place of positive weight.
    total_B1 = cumulative_BK[:, -1:]
    reached_B1 = torch.minimum(target_B1.clamp(min=0), torch.nextafter(total_B1, torch.zeros_like(total_B1)))
    return torch.searchsorted(cumulative_BK, reached_B1, right=True)
