"""A reward model from preferences: the Bradley-Terry model (Ouyang et al. 2022, arXiv 2203.02155, eq. 1).

Rows come in pairs: the chosen answer, then the rejected one.

Shape legend: B rows, P pairs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from codex_ray.errors import ConfigError
from codex_ray.train.objectives.objective import Forward, Objective
from codex_ray.train.objectives.sequences import Sequences


def padding_id(model: Any) -> int:
    """Return the token that a sequence classifier finds the end of a row by.

    Raises:
        ConfigError: its configuration names none.
    """
    found = model.config.get_text_config().pad_token_id
    if found is None:
        raise ConfigError(
            "the model's config.json names no pad_token_id, by which a reward model finds an answer's end; "
            "add it there, a token that answers do not end with"
        )
    return int(found)


class BradleyTerry(Objective[Sequences]):
    """``-log sigmoid(reward of the chosen - reward of the rejected)``, mean over pairs.

    The model is a Transformers sequence classifier with one label; rows are padded with
    :func:`padding_id`, and micro-batches split with ``unit=2``.

    Args:
        centring: weight of the square of a pair's summed rewards, which holds their mean near zero
            (Eisenstein et al. 2023, arXiv 2312.09244); 0 leaves rewards free up to a constant.
    """

    def __init__(self, *, centring: float = 0.0) -> None:
        super().__init__("accuracy", "margin", "mean_reward")
        self._centring = centring

    def weight(self, micro: Sequences) -> int:
        """Pairs."""
        return micro.real // 2

    def loss(self, forward: Forward, micro: Sequences, total_weight: int) -> Tensor:
        """Return this micro-batch's share of the mean over pairs."""
        reward_B = rewards(forward, micro)
        chosen_P, rejected_P = reward_B[0::2], reward_B[1::2]
        margin_P = chosen_P - rejected_P
        loss_P = -functional.logsigmoid(margin_P) + self._centring * (chosen_P + rejected_P).square()
        real_P = (micro.counts[0::2] > 0).to(loss_P)
        for name, figure_P in (
            ("accuracy", (margin_P > 0).to(loss_P)),
            ("margin", margin_P),
            ("mean_reward", (chosen_P + rejected_P) / 2),
        ):
            self.figures.add(name, (figure_P * real_P).sum(), real_P.sum())
        return (loss_P * real_P).sum() / total_weight


def rewards(forward: Forward, rows: Sequences) -> Tensor:
    """Return what a sequence classifier with one label says of whole rows, fp32 or wider, [B]."""
    places = torch.arange(rows.shape[1], device=rows.lengths_B.device)
    attended_BS = (places < rows.lengths_B[:, None]).long()
    logits = forward(input_ids=rows.input_ids_BS, attention_mask=attended_BS, use_cache=False).logits
    reward_B: Tensor = logits.squeeze(-1)
    return reward_B.to(torch.promote_types(reward_B.dtype, torch.float32))
