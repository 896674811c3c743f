"""Group-relative policy optimisation, GRPO (arXiv 2402.03300), with the choices that its successors made."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
from torch import Tensor

from codex_ray.errors import ConfigError
from codex_ray.model.head import TokenHead
from codex_ray.train.objectives.normalisation import Normalisation
from codex_ray.train.objectives.objective import AddUp, Forward, Objective, Weights
from codex_ray.train.objectives.ratios import clipped, kl_estimate, ratios
from codex_ray.train.objectives.scoring import logprobs, score
from codex_ray.train.objectives.sequences import Sequences


def group_advantages(
    rewards: Sequence[float], groups: Sequence[object], *, standardise: bool = True, eps: float = 1e-4
) -> list[float]:
    """Return each reward minus its group's mean, over the group's standard deviation unless told otherwise.

    Equal rewards, as of a group of one, give exactly 0. The deviation is of the sample (N - 1); ``eps`` is
    added to it. Dr. GRPO leaves it out, for it favours questions that are too easy or too hard.

    Args:
        rewards: of each sequence; groups: what each was an answer to.
        standardise: whether to divide.
        eps: added to the deviation.
    """
    values, advantages = np.asarray(rewards, dtype=np.float64), np.zeros(len(rewards))
    members: dict[object, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    for indices in members.values():
        own = values[indices]
        if own.min() == own.max():
            continue
        advantages[indices] = own - own.mean()
        if standardise:
            advantages[indices] /= own.std(ddof=1) + eps
    found: list[float] = advantages.tolist()
    return found


class GRPO(Objective[Sequences]):
    """PPO's clipped loss with one advantage for all tokens of a row, and a KL to the reference beside it.

    Rows hold ``advantages`` (:func:`group_advantages`, in ``rows``) and ``sampler_logprobs``. The ratio that
    is clipped is between the policy now and at the beginning of the batch: with one update per batch it is 1.
    What the sampler's own arithmetic differs by is corrected by a ratio of its own, capped and without a
    gradient.

    Args:
        head: of the model.
        normalisation: of the loss; unset is GRPO's, over rows.
        clip_low, clip_high: the ratio is held between ``1 - clip_low`` and ``1 + clip_high``.
        updates: optimizer steps that are made from one batch; with more than one, log-probabilities of its
            beginning are kept, and ``prepare`` is called once for all of them.
        most_importance: cap of the sampler's ratio; 0 leaves the correction out.
        kl: weight of the KL; 0 needs no reference. kl_kind: its estimate, ``k3`` or ``k2``.
        reference: the context in which the model has the reference's weights and no dropout.
        temperature: that completions were sampled at.
    """

    def __init__(
        self,
        head: TokenHead,
        *,
        normalisation: Normalisation | None = None,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        updates: int = 1,
        most_importance: float = 2.0,
        kl: float = 0.0,
        kl_kind: str = "k3",
        reference: Weights = nullcontext,
        temperature: float = 1.0,
    ) -> None:
        super().__init__("clip_share", "entropy", "importance_ratio", "reference_kl")
        if kl_kind not in ("k2", "k3"):
            raise ConfigError(f"kl_kind={kl_kind} is unknown; give k2 or k3")
        self._head, self._temperature = head, temperature
        self._normalisation = normalisation or Normalisation()
        self._low, self._high, self._updates = clip_low, clip_high, updates
        self._most, self._kl, self._kind, self._reference = most_importance, kl, kl_kind, reference

    def prepare(self, forward: Forward, micros: list[Sequences], add_up: AddUp) -> list[Sequences]:
        """Score the tokens under the reference, and under the policy where several updates follow."""

        def known(name: str) -> list[Sequences]:
            return [
                rows.with_tokens(**{name: logprobs(self._head, forward, rows, temperature=self._temperature)})
                for rows in micros
            ]

        if self._updates > 1:
            micros = known("old_logprobs")
        if self._kl:
            with self._reference():
                micros = known("reference_logprobs")
        return micros

    def weight(self, micro: Sequences) -> int:
        """As the normalisation has it."""
        return self._normalisation.weight(micro)

    def loss(self, forward: Forward, micro: Sequences, total_weight: int) -> Tensor:
        """Return this micro-batch's share of the loss."""
        logprob_T, entropy_T, *_ = score(self._head, forward, micro, temperature=self._temperature)
        old_T = micro.at("old_logprobs") if self._updates > 1 else logprob_T.detach()
        advantage_T = micro.rows["advantages"][micro.owners]
        loss_T, stopped_T = clipped(ratios(logprob_T, old_T), advantage_T, self._low, self._high)
        if self._most:
            importance_T = ratios(old_T, micro.at("sampler_logprobs"), self._most)
            loss_T = loss_T * importance_T
            self.figures.add("importance_ratio", importance_T.sum(), importance_T.numel())
        if self._kl:
            kl_T = kl_estimate(logprob_T, micro.at("reference_logprobs"), self._kind)
            loss_T = loss_T + self._kl * kl_T
            self.figures.add("reference_kl", kl_T.sum(), kl_T.numel())
        self.figures.add("clip_share", stopped_T.sum(), stopped_T.numel())
        self.figures.add("entropy", entropy_T.sum(), entropy_T.numel())
        return self._normalisation.total(micro, loss_T) / total_weight
