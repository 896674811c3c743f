"""Proximal policy optimisation, PPO (arXiv 1707.06347), with a value head on the policy's hidden states."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from codex_ray.model.head import TokenHead
from codex_ray.train.objectives.normalisation import Normalisation
from codex_ray.train.objectives.objective import AddUp, Forward, Objective, Weights
from codex_ray.train.objectives.ratios import clipped, ratios
from codex_ray.train.objectives.returns import gae, later
from codex_ray.train.objectives.scoring import logprobs, score
from codex_ray.train.objectives.sequences import Sequences


class PPO(Objective[Sequences]):
    """Clipped policy loss with generalised advantages, and a clipped value loss beside it.

    Rows hold ``rewards`` (in ``rows``), which come after a row's last token; a batch may serve several
    optimizer steps, and ``prepare`` is called once for all of them.

    Args:
        head: of a model with a value head (``attach_value_head``).
        normalisation: of both losses; unset is over tokens.
        clip: the policy's ratio is held within 1 plus or minus this; value_clip: a value is held within so
            much of what it was; 0 leaves that out.
        value_weight: of the value loss; entropy_weight: of a reward for entropy, at sampled tokens.
        discount: gamma; trace: lambda of the advantages.
        whiten: give the advantages of the whole batch mean 0 and variance 1.
        kl: penalty on ``log p - log p_reference`` in each token's reward; 0 needs no reference.
        reference: the context in which the model has the reference's weights and no dropout.
        temperature: that completions were sampled at.
    """

    def __init__(
        self,
        head: TokenHead,
        *,
        normalisation: Normalisation | None = None,
        clip: float = 0.2,
        value_clip: float = 0.2,
        value_weight: float = 0.1,
        discount: float = 1.0,
        trace: float = 0.95,
        whiten: bool = True,
        kl: float = 0.0,
        reference: Weights = nullcontext,
        temperature: float = 1.0,
    ) -> None:
        super().__init__("clip_share", "value_clip_share", "value_loss", "entropy", "reference_kl", "returns")
        self._head, self._temperature = head, temperature
        self._normalisation = normalisation or Normalisation("tokens")
        self._clip, self._value_clip, self._value_weight = clip, value_clip, value_weight
        self._discount, self._trace, self._whiten = discount, trace, whiten
        self._kl, self._reference = kl, reference

    def prepare(self, forward: Forward, micros: list[Sequences], add_up: AddUp) -> list[Sequences]:
        """Add log-probabilities and values at the beginning, advantages and returns."""
        prepared = [self._scored(forward, rows) for rows in micros]
        if self._kl:
            with self._reference():
                reference = [logprobs(self._head, forward, r, temperature=self._temperature) for r in micros]
        else:
            reference = [rows.at("old_logprobs") for rows in prepared]
        prepared = [self._judged(*pair) for pair in zip(prepared, reference, strict=True)]
        return _whitened(prepared, add_up) if self._whiten else prepared

    def weight(self, micro: Sequences) -> int:
        """As the normalisation has it."""
        return self._normalisation.weight(micro)

    def loss(self, forward: Forward, micro: Sequences, total_weight: int) -> Tensor:
        """Return this micro-batch's share of policy and value loss."""
        found = score(self._head, forward, micro, temperature=self._temperature, values=True)
        logprob_T, entropy_T, value_T = found
        ratio_T = ratios(logprob_T, micro.at("old_logprobs"))
        policy_T, stopped_T = clipped(ratio_T, micro.at("advantages"), self._clip, self._clip)
        value_loss_T, value_stopped_T = self._value_loss(value_T, micro.at("old_values"), micro.at("returns"))
        for name, figure_T in (
            ("clip_share", stopped_T),
            ("value_clip_share", value_stopped_T),
            ("value_loss", value_loss_T),
            ("entropy", entropy_T),
            ("returns", micro.at("returns")),
        ):
            self.figures.add(name, figure_T.sum(), figure_T.numel())
        loss_T = policy_T + self._value_weight * value_loss_T
        return self._normalisation.total(micro, loss_T) / total_weight

    def _value_loss(self, value_T: Tensor, old_T: Tensor, return_T: Tensor) -> tuple[Tensor, Tensor]:
        free_T = 0.5 * (value_T - return_T).square()
        if not self._value_clip:
            return free_T, torch.zeros_like(free_T, dtype=torch.bool)
        near_T = old_T + (value_T - old_T).clamp(-self._value_clip, self._value_clip)
        held_T = 0.5 * (near_T - return_T).square()
        return free_T.maximum(held_T), held_T > free_T

    @torch.no_grad()
    def _scored(self, forward: Forward, rows: Sequences) -> Sequences:
        logprob_T, _, value_T = score(self._head, forward, rows, temperature=self._temperature, values=True)
        return rows.with_tokens(old_logprobs=logprob_T, old_values=value_T)

    def _judged(self, rows: Sequences, reference_T: Tensor) -> Sequences:
        apart_T = rows.at("old_logprobs") - reference_T
        self.figures.add("reference_kl", apart_T.sum(), apart_T.numel())
        last_T = later(rows, torch.ones_like(apart_T)) == 0
        reward_T = last_T * rows.rows["rewards"][rows.owners] - self._kl * apart_T
        values_T = rows.at("old_values")
        advantage_T, return_T = gae(rows, reward_T, values_T, discount=self._discount, trace=self._trace)
        return rows.with_tokens(advantages=advantage_T, returns=return_T)


def _whitened(micros: list[Sequences], add_up: AddUp) -> list[Sequences]:
    """Give advantages mean 0 and variance 1 over the tokens of all ranks."""
    own_T = torch.cat([rows.at("advantages").double() for rows in micros])
    count, total, squares = add_up(
        torch.stack([torch.ones_like(own_T).sum(), own_T.sum(), own_T.square().sum()])
    ).tolist()
    mean = total / max(1.0, count)
    deviation = max(0.0, squares / max(1.0, count) - mean**2) ** 0.5
    return [
        rows.with_tokens(advantages=(rows.at("advantages") - mean) / (deviation + 1e-8)) for rows in micros
    ]
