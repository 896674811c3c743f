"""Direct preference optimisation, DPO (Rafailov et al. 2023, arXiv 2305.18290).

Rows come in pairs: the chosen answer, then the rejected one.

Shape legend: B rows, P pairs, T tokens that count.
"""

from __future__ import annotations

from contextlib import nullcontext

from torch import Tensor
from torch.nn import functional

from codex_ray.model.head import TokenHead
from codex_ray.train.objectives.objective import AddUp, Forward, Objective, Weights
from codex_ray.train.objectives.scoring import logprobs, score
from codex_ray.train.objectives.sequences import Sequences


class DPO(Objective[Sequences]):
    """``-log sigmoid(beta * (log-ratio of the chosen - log-ratio of the rejected))``, mean over pairs.

    A log-ratio is the answer's log-probability minus the reference's. Micro-batches are split with
    ``unit=2``.

    Args:
        head: of the model.
        beta: how strongly the reference holds.
        smoothing: probability that a pair is the wrong way round (conservative DPO).
        reference: the context in which the model has the reference's weights and no dropout.
    """

    def __init__(
        self,
        head: TokenHead,
        *,
        beta: float = 0.1,
        smoothing: float = 0.0,
        reference: Weights = nullcontext,
    ) -> None:
        super().__init__("margin", "accuracy", "chosen_reward", "rejected_reward")
        self._head, self._beta, self._smoothing, self._reference = head, beta, smoothing, reference

    def prepare(self, forward: Forward, micros: list[Sequences], add_up: AddUp) -> list[Sequences]:
        """Score the answers under the reference."""
        with self._reference():
            return [
                rows.with_rows(reference=rows.sums(logprobs(self._head, forward, rows))) for rows in micros
            ]

    def weight(self, micro: Sequences) -> int:
        """Pairs."""
        return micro.real // 2

    def loss(self, forward: Forward, micro: Sequences, total_weight: int) -> Tensor:
        """Return this micro-batch's share of the mean over pairs."""
        logprob_T = score(self._head, forward, micro)[0]
        reward_B = self._beta * (micro.sums(logprob_T) - micro.rows["reference"])
        chosen_P, rejected_P = reward_B[0::2], reward_B[1::2]
        margin_P = chosen_P - rejected_P
        loss_P = -(1.0 - self._smoothing) * functional.logsigmoid(margin_P)
        loss_P = loss_P - self._smoothing * functional.logsigmoid(-margin_P)
        real_P = (micro.counts[0::2] > 0).to(loss_P)
        for name, figure_P in (
            ("margin", margin_P),
            ("accuracy", (margin_P > 0).to(loss_P)),
            ("chosen_reward", chosen_P),
            ("rejected_reward", rejected_P),
        ):
            self.figures.add(name, (figure_P * real_P).sum(), real_P.sum())
        return (loss_P * real_P).sum() / total_weight
