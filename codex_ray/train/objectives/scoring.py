"""Log-probabilities of given tokens, in fp32, always of the ids themselves.

Shape legend: T tokens that count, V vocabulary, K figures per token.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from codex_ray.model.head import Reduction, TokenHead
from codex_ray.train.objectives.sequences import Sequences


def logprob_and_entropy(targets_T: Tensor, temperature: float) -> Reduction:
    """Return what makes log-probability and entropy, in nats, of logits, [T, 2].

    The distribution is the one that is sampled from at this temperature; the entropy has no gradient.
    """

    def reduce(logits_TV: Tensor, part: slice) -> Tensor:
        scaled_TV = logits_TV / temperature if temperature != 1.0 else logits_TV
        normaliser_T = scaled_TV.logsumexp(-1)
        logprob_T = scaled_TV.gather(-1, targets_T[part, None]).squeeze(-1) - normaliser_T
        with torch.no_grad():
            logs_TV = scaled_TV - normaliser_T[:, None]
            entropy_T = -(logs_TV.exp() * logs_TV.nan_to_num(neginf=0.0)).sum(-1)
        return torch.stack([logprob_T, entropy_T], dim=-1)

    return reduce


def score(
    head: TokenHead,
    forward: Callable[..., object],
    rows: Sequences,
    *,
    temperature: float = 1.0,
    values: bool = False,
) -> tuple[Tensor, ...]:
    """Return log-probability and entropy of each token that counts, both [T]; and its value where wanted.

    The value is the one of the place before the token: what is to come from there on.
    """
    reduce = logprob_and_entropy(rows.targets, temperature)
    figures_TK = head.figures(forward, rows.places, reduce, rows.inputs(), values=values)
    return figures_TK.unbind(-1)


@torch.no_grad()
def logprobs(
    head: TokenHead, forward: Callable[..., object], rows: Sequences, *, temperature: float = 1.0
) -> Tensor:
    """Return the log-probability of each token that counts, [T], without a gradient."""
    return score(head, forward, rows, temperature=temperature)[0]
