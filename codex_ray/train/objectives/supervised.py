"""Learning from demonstrations: plain, weighted by probability, and held near a reference.

Shape legend: T tokens that count.
"""

from __future__ import annotations

from contextlib import nullcontext

from torch import Tensor

from codex_ray.model.head import TokenHead
from codex_ray.train.objectives.divergence import Divergence, compare
from codex_ray.train.objectives.normalisation import Normalisation
from codex_ray.train.objectives.objective import Forward, Objective, Weights
from codex_ray.train.objectives.scoring import score
from codex_ray.train.objectives.sequences import Sequences


class Supervised(Objective[Sequences]):
    """The negative log-likelihood of the tokens that count.

    Args:
        head: of the model.
        dynamic: weigh each token's loss by its probability, without a gradient through the weight (DFT, Wu
            et al. 2025, arXiv 2508.05629): the likelihood's gradient, without the blow-up at unlikely tokens.
        kl: weight of a divergence from the reference at each token; 0 needs no reference.
        divergence: which, with the reference as teacher; unset is KL(model || reference).
        reference: the context in which the model has the reference's weights and no dropout.
        normalisation: of the loss; unset is over tokens.
    """

    def __init__(
        self,
        head: TokenHead,
        *,
        dynamic: bool = False,
        kl: float = 0.0,
        divergence: Divergence | None = None,
        reference: Weights = nullcontext,
        normalisation: Normalisation | None = None,
    ) -> None:
        super().__init__("nll", "reference_divergence")
        self._head, self._dynamic, self._kl = head, dynamic, kl
        self._divergence, self._reference = divergence or Divergence(1.0), reference
        self._normalisation = normalisation or Normalisation("tokens")

    def weight(self, micro: Sequences) -> int:
        """As the normalisation has it."""
        return self._normalisation.weight(micro)

    def loss(self, forward: Forward, micro: Sequences, total_weight: int) -> Tensor:
        """Return this micro-batch's share of the loss, in nats."""
        apart_T = None
        if self._kl:
            weights, divergence = self._reference, self._divergence
            compared = compare(self._head, forward, micro, micro, weights=weights, divergence=divergence)
            logprob_T, apart_T = compared.student_logprob_T, compared.divergence_T
            self.figures.add("reference_divergence", apart_T.sum(), apart_T.numel())
        else:
            logprob_T = score(self._head, forward, micro)[0]
        self.figures.add("nll", -logprob_T.sum(), logprob_T.numel())
        loss_T = -logprob_T
        if self._dynamic:
            loss_T = loss_T * logprob_T.detach().exp()
        if apart_T is not None:
            loss_T = loss_T + self._kl * apart_T
        return self._normalisation.total(micro, loss_T) / total_weight
