"""Self-distillation fine-tuning, SDFT (Shenfeld et al. 2026, arXiv 2601.19897).

The student answers a prompt; the teacher, the same model shown a demonstration, scores the same tokens; the
student moves towards it. The paper's text derives reverse KL, its results come from forward KL, which is the
default here.

Shape legend: B rows, T tokens that count, row after row.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from codex_ray.errors import ConfigError
from codex_ray.model.head import TokenHead
from codex_ray.train.objectives.demonstrated import Demonstrated
from codex_ray.train.objectives.divergence import Compared, Divergence, compare
from codex_ray.train.objectives.objective import Forward, Objective, Weights
from codex_ray.train.objectives.returns import later, order

ESTIMATORS = ("analytic", "sampled", "rao_blackwell")


class SelfDistillation(Objective[Demonstrated]):
    """The divergence of teacher and student at each sampled token, averaged per row, then over rows.

    Args:
        head: of the model that is student and teacher.
        teacher: the context in which the model has the teacher's weights and no dropout; unset is live
            weights. An average or frozen weights are ``HeldWeights.in_place``, the base of an adapter is the
            adapter switched off.
        divergence: which, and over what.
        estimator: of its gradient (appendix A.1). ``analytic`` is the exact sum over the vocabulary at each
            token; ``rao_blackwell`` adds what later tokens' divergences owe to this one, which makes it
            unbiased for the divergence of whole sequences; ``sampled`` looks at the sampled token alone. The
            last two are of reverse KL.
        temperature: that completions were sampled at.
        skip: tokens at the beginning of each completion that are not learnt from.
        importance: correct for what the sampler's log-probabilities differ by: ``none``, ``token``, or
            ``sequence``, which weighs a row by the mean of its tokens' ratios.
        most_importance: cap of a ratio.
    """

    def __init__(
        self,
        head: TokenHead,
        teacher: Weights = nullcontext,
        *,
        divergence: Divergence | None = None,
        estimator: str = "analytic",
        temperature: float = 1.0,
        skip: int = 0,
        importance: str = "none",
        most_importance: float = 2.0,
    ) -> None:
        super().__init__("divergence", "teacher_gain", "importance_ratio", "unlearnt_share")
        self._head, self._teacher = head, teacher
        self._divergence, self._estimator = divergence or Divergence(), estimator
        self._temperature, self._skip = temperature, skip
        self._importance, self._most = importance, most_importance
        if estimator not in ESTIMATORS or importance not in ("none", "token", "sequence"):
            raise ConfigError(
                f"estimator={estimator} with importance={importance} is unknown; estimators are "
                f"{', '.join(ESTIMATORS)}, importance is none, token or sequence"
            )
        if estimator != "analytic" and self._divergence.mix != 1.0:
            raise ConfigError(
                f"estimator={estimator} is of reverse KL; give divergence=reverse, or estimator=analytic"
            )

    def weight(self, micro: Demonstrated) -> int:
        """Rows with a completion; each weighs the same, however long."""
        return micro.student.real

    def loss(self, forward: Forward, micro: Demonstrated, total_weight: int) -> Tensor:
        """Return this micro-batch's share of the mean over rows, in nats per token."""
        student = micro.student
        compared = compare(
            self._head,
            forward,
            student,
            micro.teacher,
            weights=self._teacher,
            divergence=self._divergence,
            temperature=self._temperature,
        )
        learnt_T = (order(student) >= self._skip).to(compared.divergence_T)
        loss_T = self._estimate(micro, compared, learnt_T) * learnt_T
        length_B = student.sums(learnt_T)
        if self._importance != "none":
            loss_T = loss_T * self._ratio(micro, compared.student_logprob_T.detach(), learnt_T, length_B)
        self._report(compared, learnt_T, micro, length_B)
        return (student.sums(loss_T) / length_B.clamp(min=1)).sum() / total_weight

    def _estimate(self, micro: Demonstrated, compared: Compared, learnt_T: Tensor) -> Tensor:
        if self._estimator == "analytic":
            return compared.divergence_T
        slope_T = compared.student_logprob_T - compared.student_logprob_T.detach()  # zero, with a gradient
        if self._estimator == "sampled":
            ratio_T = (compared.student_logprob_T - compared.teacher_logprob_T).detach()
            return ratio_T + ratio_T * slope_T
        to_come_T = later(micro.student, compared.divergence_T.detach() * learnt_T)
        return compared.divergence_T + to_come_T * slope_T

    def _ratio(self, micro: Demonstrated, own_T: Tensor, learnt_T: Tensor, length_B: Tensor) -> Tensor:
        student = micro.student
        ratio_T = (own_T - student.at("sampler_logprobs")).exp().clamp(max=self._most)
        self.figures.add("importance_ratio", (ratio_T * learnt_T).sum(), learnt_T.sum())
        if self._importance == "token":
            return ratio_T
        return (student.sums(ratio_T * learnt_T) / length_B.clamp(min=1))[student.owners]

    def _report(self, compared: Compared, learnt_T: Tensor, micro: Demonstrated, length_B: Tensor) -> None:
        count = learnt_T.sum()
        self.figures.add("divergence", (compared.divergence_T * learnt_T).sum(), count)
        gain_T = (compared.teacher_logprob_T - compared.student_logprob_T).detach()
        self.figures.add("teacher_gain", (gain_T * learnt_T).sum(), count)
        real_B = micro.student.counts > 0
        self.figures.add("unlearnt_share", (real_B & (length_B == 0)).sum(), torch.sum(real_B))
