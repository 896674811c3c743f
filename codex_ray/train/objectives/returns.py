"""What is still to come in a row, from its rewards: rewards-to-go and generalised advantage estimation.

Figures stand in one line, row after row; only tokens that count are in it, so that what a tool said between
two of them is no step of its own.

Shape legend: B rows, T tokens that count, L the most of them in a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from codex_ray.train.objectives.sequences import Sequences


def later(rows: Sequences, figures_T: Tensor) -> Tensor:
    """Return, for each token that counts, the sum over those after it in its row, [T]."""
    running_T = figures_T.double().cumsum(0)
    until_B = rows.counts.cumsum(0)
    ends_T = (until_B - 1)[rows.owners]
    return (running_T[ends_T] - running_T).to(figures_T.dtype)


def order(rows: Sequences) -> Tensor:
    """Return which of its row's tokens that count each is, from 0, [T]."""
    first_B = rows.counts.cumsum(0) - rows.counts
    return torch.arange(int(rows.counts.sum()), device=first_B.device) - first_B[rows.owners]


def gae(
    rows: Sequences, rewards_T: Tensor, values_T: Tensor, *, discount: float, trace: float
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns, both [T] (Schulman et al. 2016, arXiv 1506.02438, eq. 16).

    ``delta_t = r_t + discount * V_{t+1} - V_t`` and ``A_t = delta_t + discount * trace * A_{t+1}``; after a
    row's last token nothing is to come. A return is advantage plus value.

    Args:
        rows: whose tokens these are.
        rewards_T: after each token; values_T: what is to come from before it.
        discount: gamma; trace: lambda.
    """
    place_T, owner_T = order(rows), rows.owners
    longest = int(rows.counts.max()) if len(rows.counts) else 0
    reward_BL = rewards_T.new_zeros(rows.shape[0], longest + 1)
    value_BL = values_T.new_zeros(rows.shape[0], longest + 1)
    reward_BL[owner_T, place_T], value_BL[owner_T, place_T] = rewards_T, values_T
    advantage_BL = torch.zeros_like(value_BL)
    for step in range(longest - 1, -1, -1):
        delta_B = reward_BL[:, step] + discount * value_BL[:, step + 1] - value_BL[:, step]
        advantage_BL[:, step] = delta_B + discount * trace * advantage_BL[:, step + 1]
    advantage_T = advantage_BL[owner_T, place_T]
    return advantage_T, advantage_T + values_T
