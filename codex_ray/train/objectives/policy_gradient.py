"""The policy gradient with an advantage given for every token, as TTT-Discover has it (arXiv 2601.16175)."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from codex_ray.model.head import TokenHead
from codex_ray.train.objectives.normalisation import Normalisation
from codex_ray.train.objectives.objective import AddUp, Forward, Objective, Weights
from codex_ray.train.objectives.ratios import ratios
from codex_ray.train.objectives.scoring import logprobs, score
from codex_ray.train.objectives.sequences import Sequences


class PolicyGradient(Objective[Sequences]):
    """``-sum over tokens of p / p_sampler * A``, without clipping.

    Rows hold ``sampler_logprobs`` and ``advantages``. With ``shaping``, ``lambda * (dbar - d)`` is added to
    the advantages of a whole batch, where ``d = log p_sampler - log p_reference`` and ``dbar`` is its mean
    over all tokens: a penalty on leaving the reference whose sum is zero.

    Args:
        head: of the model.
        normalisation: of the loss; unset is the plain sum over tokens.
        temperature: that completions were sampled at.
        most_ratio: cap of the ratio; infinite is none.
        shaping: lambda; 0 needs no reference.
        reference: the context in which the model has the reference's weights and no dropout.
    """

    def __init__(
        self,
        head: TokenHead,
        *,
        normalisation: Normalisation | None = None,
        temperature: float = 1.0,
        most_ratio: float = float("inf"),
        shaping: float = 0.0,
        reference: Weights = nullcontext,
    ) -> None:
        super().__init__("ratio", "entropy", "reference_kl")
        self._head, self._temperature = head, temperature
        self._normalisation = normalisation or Normalisation("nothing")
        self._most, self._shaping, self._reference = most_ratio, shaping, reference

    def prepare(self, forward: Forward, micros: list[Sequences], add_up: AddUp) -> list[Sequences]:
        """Add the shaping to the advantages, over the batch of all ranks."""
        if not self._shaping:
            return micros
        with self._reference():
            reference = [
                logprobs(self._head, forward, rows, temperature=self._temperature) for rows in micros
            ]
        pairs = zip(micros, reference, strict=True)
        apart = [rows.at("sampler_logprobs") - reference_T for rows, reference_T in pairs]
        whole_T = torch.cat(apart).double()
        own = torch.stack([whole_T.sum(), torch.ones_like(whole_T).sum()])
        total, count = add_up(own).tolist()
        self.figures.add("reference_kl", own[0], own[1])
        mean = total / max(1.0, count)
        return [
            rows.with_tokens(advantages=rows.at("advantages") + self._shaping * (mean - apart_T))
            for rows, apart_T in zip(micros, apart, strict=True)
        ]

    def weight(self, micro: Sequences) -> int:
        """As the normalisation has it."""
        return self._normalisation.weight(micro)

    def loss(self, forward: Forward, micro: Sequences, total_weight: int) -> Tensor:
        """Return this micro-batch's share of the loss."""
        logprob_T, entropy_T, *_ = score(self._head, forward, micro, temperature=self._temperature)
        ratio_T = ratios(logprob_T, micro.at("sampler_logprobs"), self._most)
        self.figures.add("ratio", ratio_T.sum(), ratio_T.numel())
        self.figures.add("entropy", entropy_T.sum(), entropy_T.numel())
        return self._normalisation.total(micro, -ratio_T * micro.at("advantages")) / total_weight
