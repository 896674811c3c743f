"""Choosing the next token from logits, reproducibly row by row.

A row draws one uniform number a step and inverts its cumulative distribution. The number comes from the
row's own generator, so a completion depends on its prompt and its seed and not on the rows beside it.

Tensor names end in their shape: B rows, V vocabulary, K tokens kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from codex_ray.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn: temperature first, then the ``top_k`` likeliest, then ``top_p`` of what is left.

    Raises:
        ConfigError: a value that cannot be right.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature must be a number from 0 up, not {self.temperature}; 0 is greedy")
        if self.top_k < 0:
            raise ConfigError(f"top_k must be at least 0, not {self.top_k}; 0 keeps every token")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be above 0 and at most 1, not {self.top_p}; 1 keeps every token")


def row_seeds(seed: int, rows: int) -> list[int]:
    """Return one seed per row, each a function of ``seed`` and the row's number alone."""
    return [
        int(np.random.SeedSequence(seed, spawn_key=(row,)).generate_state(1, np.uint64)[0])
        for row in range(rows)
    ]


def sample(logits_BV: Tensor, uniforms_B: Sequence[float], sampling: Sampling) -> Tensor:
    """Draw one token per row; int64 ids ``[B]``.

    The smallest set whose probability reaches ``top_p`` is kept, the likeliest token always
    (nucleus sampling, arXiv 1904.09751). Tokens at minus infinity are never drawn.

    Args:
        logits_BV: scores, any floating type; normalised here in float64.
        uniforms_B: one number in [0, 1) per row; greedy decoding ignores them.
        sampling: temperature, top-k and top-p.
    """
    if sampling.temperature == 0:
        return logits_BV.argmax(dim=-1)
    scores_BV = logits_BV.double()
    scores_BV = (scores_BV - scores_BV.amax(dim=-1, keepdim=True)) / sampling.temperature
    ids_BK: Tensor | None = None
    if 0 < sampling.top_k < logits_BV.shape[-1]:
        scores_BV, ids_BK = scores_BV.topk(sampling.top_k, dim=-1)
    elif sampling.top_p < 1:
        scores_BV, ids_BK = scores_BV.sort(dim=-1, descending=True, stable=True)
    probabilities_BK = scores_BV.softmax(dim=-1)
    if sampling.top_p < 1:
        before_BK = probabilities_BK.cumsum(dim=-1) - probabilities_BK
        beyond_BK = before_BK >= sampling.top_p
        beyond_BK[:, 0] = False
        probabilities_BK = probabilities_BK.masked_fill(beyond_BK, 0.0)
    cumulative_BK = probabilities_BK.cumsum(dim=-1)
    total_B1 = cumulative_BK[:, -1:]
    uniforms_B1 = torch.tensor(list(uniforms_B), dtype=torch.float64, device=logits_BV.device)[:, None]
    # Staying below the total makes the first entry above the target one of positive probability.
    target_B1 = torch.minimum(uniforms_B1 * total_B1, torch.nextafter(total_B1, torch.zeros_like(total_B1)))
    chosen_B1 = torch.searchsorted(cumulative_BK, target_B1, right=True)
    return (chosen_B1 if ids_BK is None else ids_BK.gather(-1, chosen_B1)).squeeze(-1)
