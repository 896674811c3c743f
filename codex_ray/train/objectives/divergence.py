"""How far a student's next-token distributions are from a teacher's, over the vocabulary or its likely part.

The teacher is the same model in another context, with other weights, or both; the tokens are the same.

Shape legend: T tokens that count, V vocabulary, K chosen tokens of it (and perhaps one bucket for the rest).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from codex_ray.errors import ConfigError
from codex_ray.model.head import TokenHead
from codex_ray.train.objectives.objective import Forward, Weights
from codex_ray.train.objectives.sequences import Sequences


@dataclass(frozen=True)
class Divergence:
    """Which divergence of teacher T and student S, and over what.

    Attributes:
        mix: 0 is forward KL(T || S), 1 reverse KL(S || T), and between them the Jensen-Shannon divergence
            ``mix * KL(T || M) + (1 - mix) * KL(S || M)`` with ``M = (1 - mix) * S + mix * T`` (Agarwal et
            al. 2024, arXiv 2306.13649).
        top_k: tokens of the vocabulary that are compared at each place; 0 is all of it.
        top_k_of: whose most likely tokens those are, ``teacher`` or ``student``; the student's take one more
            forward pass.
        tail: whether all other tokens together are compared as one; otherwise the chosen ones are
            renormalised.
    """

    mix: float = 0.0
    top_k: int = 0
    top_k_of: str = "teacher"
    tail: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.mix <= 1.0 or self.top_k < 0 or self.top_k_of not in ("teacher", "student"):
            raise ConfigError(
                f"a divergence of mix={self.mix}, top_k={self.top_k}, top_k_of={self.top_k_of} cannot be; "
                "mix lies in 0 to 1, top_k is 0 or more, and top_k_of is teacher or student"
            )

    def of(self, teacher_TK: Tensor, student_TK: Tensor) -> Tensor:
        """Return the divergence in nats, [T], of log-probabilities over the same tokens."""
        if self.mix == 0.0:
            return _kl(teacher_TK, student_TK)
        if self.mix == 1.0:
            return _kl(student_TK, teacher_TK)
        share = torch.tensor([self.mix], dtype=student_TK.dtype, device=student_TK.device)
        mixed_TK = torch.logaddexp(student_TK + (-share).log1p(), teacher_TK + share.log())
        return self.mix * _kl(teacher_TK, mixed_TK) + (1.0 - self.mix) * _kl(student_TK, mixed_TK)

    def buckets(self, logs_TV: Tensor, chosen_TK: Tensor) -> Tensor:
        """Return log-probabilities of chosen tokens, and of all others together or renormalised."""
        found_TK = logs_TV.gather(-1, chosen_TK)
        if chosen_TK.shape[-1] == logs_TV.shape[-1]:
            return found_TK
        if not self.tail:
            return found_TK - found_TK.logsumexp(-1, keepdim=True)
        rest_T1 = logs_TV.scatter(-1, chosen_TK, float("-inf")).logsumexp(-1, keepdim=True)
        return torch.cat([found_TK, rest_T1], dim=-1)


def _kl(one_TK: Tensor, other_TK: Tensor) -> Tensor:
    """KL(one || other), from log-probabilities, as a sum of terms none of which is negative.

    ``- p + q`` in each adds up to nothing and makes equal distributions' gradient exactly zero.
    """
    shares_TK = one_TK.exp()
    return (shares_TK * (one_TK - other_TK) - shares_TK + other_TK.exp()).sum(-1)


@dataclass(frozen=True)
class Compared:
    """What two distributions at each token say, all [T]; no gradient reaches the teacher."""

    divergence_T: Tensor
    student_logprob_T: Tensor
    teacher_logprob_T: Tensor


def compare(
    head: TokenHead,
    forward: Forward,
    student: Sequences,
    teacher: Sequences,
    *,
    weights: Weights,
    divergence: Divergence,
    temperature: float = 1.0,
) -> Compared:
    """Score the same tokens as student and as teacher, which comes first.

    Of the teacher a micro-batch's distributions are kept until the student's are there: T times V numbers in
    fp32, or with ``top_k`` 2 K + 2 for each token.

    Args:
        head: of the model; ``forward``: its forward.
        student: rows in the student's context; ``teacher``: the same tokens in the teacher's.
        weights: the context in which the forward computes with the teacher's weights.
        divergence: which.
        temperature: that tokens were sampled at; logits of both are divided by it.
    """
    targets_T = student.targets
    if not torch.equal(targets_T, teacher.targets):
        raise ConfigError("student and teacher do not hold the same tokens; give both the same completions")
    chosen_TK, width = None, divergence.top_k

    def logs_of(logits_TV: Tensor) -> Tensor:
        return (logits_TV if temperature == 1.0 else logits_TV / temperature).log_softmax(-1)

    def likely(logits_TV: Tensor, part: slice) -> Tensor:
        return logits_TV.topk(min(width, logits_TV.shape[-1])).indices

    def teach(logits_TV: Tensor, part: slice) -> Tensor:
        logs_TV = logs_of(logits_TV)
        said_T1 = logs_TV.gather(-1, targets_T[part, None])
        if not width:
            return torch.cat([said_T1, logs_TV], dim=-1)
        chosen = likely(logits_TV, part) if chosen_TK is None else chosen_TK[part]
        # Ids are below 2^24, which fp32 holds exactly.
        return torch.cat([said_T1, chosen.to(logs_TV), divergence.buckets(logs_TV, chosen)], dim=-1)

    def learn(logits_TV: Tensor, part: slice) -> Tensor:
        logs_TV = logs_of(logits_TV)
        said_T1, held_TK = taught_TK[part, :1], taught_TK[part, 1:]
        compared_TK = logs_TV
        if width:
            count = min(width, logs_TV.shape[-1])
            compared_TK = divergence.buckets(logs_TV, held_TK[:, :count].long())
            held_TK = held_TK[:, count:]
        apart_T = divergence.of(held_TK, compared_TK)
        own_T1 = logs_TV.gather(-1, targets_T[part, None])
        return torch.cat([apart_T[:, None], own_T1, said_T1], dim=-1)

    with torch.no_grad():
        if width and divergence.top_k_of == "student":
            chosen_TK = head.figures(forward, student.places, likely, student.inputs())
        with weights():
            taught_TK = head.figures(forward, teacher.places, teach, teacher.inputs())
    return Compared(*head.figures(forward, student.places, learn, student.inputs()).unbind(-1))
