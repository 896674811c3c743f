"""The gate of self-distillation: is the model, shown a demonstration, better than without?

Where it is not, the teacher has nothing to teach and training follows noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from codex_ray.errors import CodexRayError
from codex_ray.model.head import TokenHead
from codex_ray.train.objectives.demonstrated import Demonstrated
from codex_ray.train.objectives.objective import Forward
from codex_ray.train.objectives.scoring import logprobs


@dataclass(frozen=True)
class Advantage:
    """The teacher's mean score minus the student's, over the same held-out examples.

    Attributes:
        teacher: mean score with the demonstration in context; ``student``: without.
        gain: the difference; ``error``: its standard error, over examples.
        examples: how many.
    """

    teacher: float
    student: float
    gain: float
    error: float
    examples: int

    @classmethod
    def of(cls, teacher: Sequence[float], student: Sequence[float]) -> Advantage:
        """Compare scores of the same examples: accuracies of 0 and 1, or log-likelihoods.

        Raises:
            CodexRayError: there are none, not as many, or not all are finite.
        """
        count = len(teacher)
        sound = all(math.isfinite(score) for score in (*teacher, *student))
        if not count or count != len(student) or not sound:
            raise CodexRayError(
                f"the teacher's advantage cannot be measured on {count} scores against {len(student)}"
                f"{'' if sound else ', not all of them finite'}; give held-out examples, each scored twice"
            )
        gains = [one - other for one, other in zip(teacher, student, strict=True)]
        gain = sum(gains) / count
        variance = sum((one - gain) ** 2 for one in gains) / max(1, count - 1)
        error = math.sqrt(variance / count)
        return cls(sum(teacher) / count, sum(student) / count, gain, error, count)

    def require(self, least: float, what: str) -> None:
        """Refuse to train where the gain is not at least ``least`` and beyond chance (two standard errors).

        Args:
            least: smallest gain, in what is measured.
            what: is measured, such as ``accuracy`` or ``log-likelihood per token``.

        Raises:
            CodexRayError: in-context learning is too weak.
        """
        if self.gain >= least and self.gain > 2 * self.error:
            return
        raise CodexRayError(
            f"a demonstration in context changes this model's {what} on {self.examples} held-out examples "
            f"from {self.student:.4g} to {self.teacher:.4g} (gain {self.gain:.4g} ± {self.error:.2g}, wanted "
            f"{least:g} and twice the error), so it would teach noise; take a larger model, clearer "
            "demonstrations or another template, or train with method=sft"
        )


@torch.no_grad()
def log_likelihood_advantage(head: TokenHead, forward: Forward, micros: Iterable[Demonstrated]) -> Advantage:
    """Measure what a demonstration adds to the log-likelihood, per token, of held-out answers.

    Meant for answers that are not the demonstration shown, or it measures copying.

    Args:
        head: of the model; ``forward``: its forward, without dropout.
        micros: answers behind both prompts.
    """
    scores: tuple[list[float], list[float]] = ([], [])
    for micro in micros:
        for rows, means in zip((micro.teacher, micro.student), scores, strict=True):
            logprob_T = logprobs(head, forward, rows)
            mean_B = rows.sums(logprob_T.double()) / rows.counts.clamp(min=1)
            means += mean_B[rows.counts > 0].tolist()
    return Advantage.of(*scores)
