"""A few steps of each objective do what it is for; memory."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from codex_ray.model.head import TokenHead
from codex_ray.train.objectives.demonstrated import Completed, Demonstrated
from codex_ray.train.objectives.distillation import SelfDistillation
from codex_ray.train.objectives.divergence import Divergence
from codex_ray.train.objectives.grpo import GRPO, group_advantages
from codex_ray.train.objectives.normalisation import Normalisation
from codex_ray.train.objectives.objective import Objective, nothing_added
from codex_ray.train.objectives.policy_gradient import PolicyGradient
from codex_ray.train.objectives.preference import DPO
from codex_ray.train.objectives.sequences import Sequences
from codex_ray.train.objectives.supervised import Supervised
from tests.unit.model.small import VOCABULARY, build
from tests.unit.train.objectives.tabular import SEQUENCES, STUDENT, TEACHER, Tabular

REWARDS = {answer: float(answer == (1, 2)) for answer in SEQUENCES}


def sampled(
    model: Tabular, count: int, generator: torch.Generator
) -> tuple[list[list[int]], list[list[float]]]:
    """Answers of the model, and their tokens' log-probabilities."""
    answers, logprobs = [], []
    for _ in range(count):
        ids, told = [STUDENT], []
        for _ in range(2):
            logs_V = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1).detach()
            ids.append(int(torch.multinomial(logs_V.exp(), 1, generator=generator)))
            told.append(logs_V[ids[-1]].item())
        answers.append(ids[1:])
        logprobs.append(told)
    return answers, logprobs


def stepped(objective: Objective[Any], model: Tabular, micro: Any, rate: float) -> None:
    micros = objective.prepare(model, [micro], nothing_added)
    loss = objective.loss(model, micros[0], max(1, objective.weight(micros[0])))
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= rate * parameter.grad


@pytest.mark.parametrize("kind", ["grpo", "policy gradient"])
def test_rewarded_answers_become_likely(kind: str) -> None:
    model, generator = Tabular(5), torch.Generator().manual_seed(0)
    head = TokenHead(model)
    before = model.logprob(STUDENT, (1, 2)).exp().item()
    objective: Objective[Any] = (
        GRPO(head) if kind == "grpo" else PolicyGradient(head, normalisation=Normalisation("rows"))
    )
    for _ in range(60):
        answers, logprobs = sampled(model, 16, generator)
        advantages = group_advantages([REWARDS[tuple(answer)] for answer in answers], [0] * 16)
        micro = Sequences.of_completions(
            [[STUDENT]] * 16, answers, logprobs=logprobs, rows={"advantages": advantages}
        )
        micro = micro.with_tokens(advantages=micro.rows["advantages"][micro.owners])
        stepped(objective, model, micro, 1.0)
    assert before < 0.3 and model.logprob(STUDENT, (1, 2)).exp() > 0.8


def test_a_chosen_answer_becomes_likely_beside_the_rejected() -> None:
    model = Tabular(5)
    reference = copy.deepcopy(model)

    @contextmanager
    def at_first() -> Any:
        own = copy.deepcopy(model.state_dict())
        model.load_state_dict(reference.state_dict())
        yield
        model.load_state_dict(own)

    objective = DPO(TokenHead(model), beta=0.5, reference=at_first)
    pair = Sequences.of_completions([[STUDENT]] * 2, [[2, 1], [0, 0]])
    for _ in range(60):
        stepped(objective, model, pair, 1.0)
    gained = [
        (model.logprob(STUDENT, one) - reference.logprob(STUDENT, one)).item() for one in ((2, 1), (0, 0))
    ]
    assert gained[0] > 0.3 and gained[1] < -1.0
    assert objective.figures.means(objective.figures.take())["accuracy"] > 0.9


@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
def test_the_student_becomes_the_teacher(mix: float) -> None:
    model, generator = Tabular(5), torch.Generator().manual_seed(0)
    objective = SelfDistillation(TokenHead(model), divergence=Divergence(mix))
    taught = [model.logprob(TEACHER, answer).exp().item() for answer in SEQUENCES]
    for _ in range(150):
        answers, _ = sampled(model, 16, generator)
        micro, _ = Demonstrated.of([Completed([STUDENT], [TEACHER], answer) for answer in answers], window=8)
        stepped(objective, model, micro, 2.0)
    learnt = [model.logprob(STUDENT, answer).exp().item() for answer in SEQUENCES]
    assert learnt == pytest.approx(taught, abs=0.02)


class Logits(TorchDispatchMode):
    """Watches how many numbers tensors as wide as the vocabulary have."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor) and tensor.shape[-1:] == (VOCABULARY,):
                self.numbers = max(self.numbers, tensor.numel())
        return made


def test_logits_of_a_batch_are_never_there() -> None:
    model = build()
    rows = Sequences.of([[5] * 64] * 8, [[False] + [True] * 63] * 8)
    wide, narrow = Logits(), Logits()
    with wide:
        Supervised(TokenHead(model)).loss(model, rows, 1).backward()
    with narrow:
        Supervised(TokenHead(model, logits_at_once=40 * VOCABULARY)).loss(model, rows, 1).backward()
    assert (wide.numbers, narrow.numbers) == (8 * 63 * VOCABULARY, 40 * VOCABULARY)
