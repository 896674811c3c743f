"""Self-distillation: estimators on a model that can be enumerated, identities, masks and the gate."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.model.head import TokenHead
from codex_ray.train.objectives.demonstrated import (
    KNOWLEDGE_TEMPLATE,
    TEMPLATE,
    Completed,
    Demonstrated,
    check_template,
    teacher_messages,
    teacher_text,
)
from codex_ray.train.objectives.distillation import SelfDistillation
from codex_ray.train.objectives.divergence import Divergence
from codex_ray.train.objectives.gate import Advantage, log_likelihood_advantage
from tests.unit.model.small import build, stir
from tests.unit.train.objectives.tabular import SEQUENCES, STUDENT, TEACHER, Tabular, gradient

REVERSE = Divergence(1.0)


def batch(*completed: tuple[list[int], list[int], list[int]], **known: Any) -> Demonstrated:
    return Demonstrated.of([Completed(*one, **known) for one in completed], window=64)[0]


def expected(model: Tabular, **options: Any) -> tuple[Tensor, Tensor]:
    """Loss and gradient in expectation over the student's answers, per sequence."""
    objective = SelfDistillation(TokenHead(model), **options)
    value, slope = torch.zeros((), dtype=torch.float64), torch.zeros_like(model.table.weight)
    for answer in SEQUENCES:
        probability = model.logprob(STUDENT, answer).exp().detach()
        micro = batch(([STUDENT], [TEACHER], list(answer)))
        loss = 2 * objective.loss(model, micro, 1)  # which is divided by the row's two tokens
        value += probability * loss.detach()
        slope += probability * gradient(loss, model)
    slope[:, 4:] = 0  # the teacher's columns, which nothing reaches
    return value, slope


def sequence_kl(model: Tabular, *, reverse: bool) -> tuple[Tensor, Tensor]:
    """KL of whole answers, and its gradient in the student's logits, by autograd over all answers."""
    total = torch.zeros((), dtype=torch.float64)
    for answer in SEQUENCES:
        student, teacher = model.logprob(STUDENT, answer), model.logprob(TEACHER, answer).detach()
        total = total + (
            student.exp() * (student - teacher) if reverse else teacher.exp() * (teacher - student)
        )
    return total.detach(), gradient(total, model)


@pytest.mark.parametrize("seed", range(3))
def test_estimators_in_expectation(seed: int) -> None:
    model = Tabular(seed)
    whole, slope = sequence_kl(model, reverse=True)
    value, blackwell = expected(model, divergence=REVERSE, estimator="rao_blackwell")
    analytic_value, analytic = expected(model, divergence=REVERSE)
    sampled = expected(model, divergence=REVERSE, estimator="sampled")[1]
    assert analytic_value.item() == pytest.approx(whole.item(), abs=1e-14)
    assert torch.allclose(blackwell, slope, atol=1e-15, rtol=0)
    assert torch.allclose(analytic, sampled, atol=1e-15, rtol=0)
    assert (analytic - slope).abs().max() > 1e-3
    assert value.item() == pytest.approx(whole.item(), abs=1e-14)


def test_the_teacher_gets_no_gradient() -> None:
    model = Tabular()
    objective = SelfDistillation(TokenHead(model))
    objective.loss(model, batch(([STUDENT], [TEACHER], [0, 2])), 1).backward()
    assert model.table.weight.grad[:, :4].any() and not model.table.weight.grad[:, 4:].any()


@pytest.mark.parametrize("mix", [0.0, 1.0])
@pytest.mark.parametrize("top_k", [0, 7])
def test_the_same_context_and_weights_teach_exactly_nothing(mix: float, top_k: int) -> None:
    model = stir(build())
    objective = SelfDistillation(TokenHead(model), divergence=Divergence(mix, top_k))
    loss = objective.loss(model, batch(([5, 6], [5, 6], [7, 8, 2]), ([9], [9], [10, 2])), 2)
    loss.backward()
    assert loss.item() == 0.0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


ROWS = (([5, 6], [4, 5, 6, 20, 21], [7, 8, 9, 2]), ([9], [30, 31, 9], [10, 2]), ([12, 13], [12, 14], [15]))


@pytest.mark.parametrize("options", [{}, {"skip": 1}, {"divergence": REVERSE, "estimator": "rao_blackwell"}])
def test_rows_padded_together_are_rows_alone(options: dict[str, Any]) -> None:
    model = stir(build()).double()
    objective = SelfDistillation(TokenHead(model), **options)
    together = objective.loss(model, batch(*ROWS), 3)
    alone = [objective.loss(model, batch(row), 3) for row in ROWS]
    assert together.item() == pytest.approx(sum(one.item() for one in alone), abs=1e-12)
    slopes = [
        torch.autograd.grad(one, model.lm_head.weight, retain_graph=True)[0] for one in (together, sum(alone))
    ]
    assert torch.allclose(*slopes, atol=1e-10)
    parts = batch(*ROWS).split(8, at_least=5)
    shares = [objective.loss(model, part, 3).item() for part in parts]
    assert len(parts) == 5 and sum(shares) == pytest.approx(together.item(), abs=1e-12)
    assert sum(objective.weight(part) for part in parts) == 3


def test_skipping_leaves_out_the_first_tokens_alone() -> None:
    model = stir(build())
    micro = batch(([5, 6], [4, 5, 6, 20, 21], [7, 8, 9, 2]))
    losses = [SelfDistillation(TokenHead(model), skip=skip).loss(model, micro, 1).item() for skip in range(5)]
    per_token = [
        SelfDistillation(TokenHead(model)).loss(model, batch((prompt, shown, [token])), 1).item()
        for prompt, shown, token in [
            ([5, 6], [4, 5, 6, 20, 21], 7),
            ([5, 6, 7], [4, 5, 6, 20, 21, 7], 8),
            ([5, 6, 7, 8], [4, 5, 6, 20, 21, 7, 8], 9),
            ([5, 6, 7, 8, 9], [4, 5, 6, 20, 21, 7, 8, 9], 2),
        ]
    ]
    for skip in range(4):
        assert losses[skip] == pytest.approx(sum(per_token[skip:]) / (4 - skip), rel=1e-4)
    assert losses[4] == 0.0
    objective = SelfDistillation(TokenHead(model), skip=4)
    objective.loss(model, micro, 1)
    assert objective.figures.means(objective.figures.take())["unlearnt_share"] == 1.0


def test_importance_weighs_tokens_or_whole_rows() -> None:
    model = Tabular()
    answer, told = [1, 2], [-0.9, -1.4]
    micro = Demonstrated.of([Completed([STUDENT], [TEACHER], answer, logprobs=told)], window=8)[0]
    bare = [
        SelfDistillation(TokenHead(model)).loss(model, batch((prompt, shown, [token])), 1).item()
        for prompt, shown, token in (([STUDENT], [TEACHER], 1), ([STUDENT, 1], [TEACHER, 1], 2))
    ]
    logs_TV = model(torch.tensor([[STUDENT, *answer]])).logits[0].log_softmax(-1)
    ratios = [min(2.0, (logs_TV[t, answer[t]] - told[t]).exp().item()) for t in range(2)]
    token = sum(ratio * one for ratio, one in zip(ratios, bare, strict=True)) / 2
    sequence = sum(ratios) / 2 * sum(bare) / 2
    for importance, value in (("token", token), ("sequence", sequence)):
        objective = SelfDistillation(TokenHead(model), importance=importance)
        assert objective.loss(model, micro, 1).item() == pytest.approx(value, rel=1e-6)
        assert objective.figures.means(objective.figures.take())["importance_ratio"] == pytest.approx(
            sum(ratios) / 2
        )
    with pytest.raises(CodexRayError, match="sampler_logprobs"):
        SelfDistillation(TokenHead(model), importance="token").loss(
            model, batch(([STUDENT], [TEACHER], [0])), 1
        )


def test_the_teachers_weights_are_in_place_while_it_scores() -> None:
    model = stir(build())
    seen = []

    class Other:
        def __enter__(self) -> None:
            seen.append(torch.is_grad_enabled())
            model.lm_head.weight.data.mul_(0.5)

        def __exit__(self, *_: Any) -> None:
            model.lm_head.weight.data.mul_(2.0)

    objective = SelfDistillation(TokenHead(model), Other)
    same = batch(([5, 6], [5, 6], [7, 8, 2]))
    assert objective.loss(model, same, 1) > 1e-3 and seen == [False]


def test_wrong_estimators_are_refused() -> None:
    head = TokenHead(build())
    for wrong in ({"estimator": "best"}, {"importance": "all"}):
        with pytest.raises(ConfigError, match="unknown"):
            SelfDistillation(head, nullcontext, **wrong)
    for estimator in ("sampled", "rao_blackwell"):
        with pytest.raises(ConfigError, match="reverse KL"):
            SelfDistillation(head, estimator=estimator)


def test_completions_that_cannot_be_learnt_are_counted() -> None:
    completed = [
        Completed([5], [5, 6], [7, 2]),
        Completed([5], [5, 6, 7, 8], [7, 8, 9]),  # too long for the teacher only
        Completed([5], [6], [7, 8], truncated=True),
        Completed([5], [6], []),
    ]
    micro, counts = Demonstrated.of(completed, window=6)
    assert micro.shape == (2, 3) and (counts.kept, counts.truncated) == (2, 1)
    assert (counts.left_out_over_long, counts.left_out_empty, counts.left_out_truncated) == (1, 1, 0)
    micro, counts = Demonstrated.of(completed, window=6, learn_truncated=False)
    assert micro.shape == (1, 3) and (counts.kept, counts.truncated, counts.left_out_truncated) == (1, 0, 1)
    none, counts = Demonstrated.of([], window=6)
    assert [part.student.real for part in none.split(8, at_least=2)] == [0, 0]


def test_templates_show_the_demonstration_in_the_last_question() -> None:
    text = teacher_text(TEMPLATE, "what is {x}?", "it is {question}")
    assert text.startswith("what is {x}?\n") and "it is {question}" in text and "{demonstration}" not in text
    assert "a fact" in teacher_text(KNOWLEDGE_TEMPLATE, "q", "d", "a fact")
    chat = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "two"},
    ]
    shown = teacher_messages(TEMPLATE, chat, "2")
    assert shown[:3] == chat[:3] and shown[3]["content"] == teacher_text(TEMPLATE, "two", "2")
    assert chat[3]["content"] == "two"
    assert teacher_messages(TEMPLATE, chat, "") == chat
    with pytest.raises(ConfigError, match="lacks"):
        check_template("{question}")
    with pytest.raises(ConfigError, match="no place"):
        teacher_messages(TEMPLATE, chat[:1], "2")


def test_the_gate_asks_for_a_gain_beyond_chance() -> None:
    clear = Advantage.of([1, 1, 1, 0, 1, 1, 1, 1], [0, 1, 0, 0, 0, 1, 0, 0])
    assert (clear.teacher, clear.student, clear.gain) == (0.875, 0.25, 0.625)
    clear.require(0.05, "accuracy")
    for weak in (Advantage.of([1, 0, 1], [1, 0, 1]), Advantage.of([1, 0, 0, 0], [0, 0, 0, 0])):
        with pytest.raises(CodexRayError, match="would teach noise"):
            weak.require(0.05, "accuracy")
    with pytest.raises(CodexRayError, match=r"wanted 0\.7"):
        clear.require(0.7, "accuracy")
    for teacher, student in (([], []), ([1.0], []), ([float("nan")], [0.0])):
        with pytest.raises(CodexRayError, match="cannot be measured"):
            Advantage.of(teacher, student)


def test_the_gate_on_log_likelihood_is_a_mean_of_rows() -> None:
    model = Tabular()
    micros = [
        batch(([STUDENT], [TEACHER], [0, 1]), ([STUDENT], [TEACHER], [2])),
        batch(([STUDENT], [TEACHER], [1, 1])),
    ]
    found = log_likelihood_advantage(TokenHead(model), model, micros)
    answers = ((0, 1), (2,), (1, 1))
    for prompt, value in ((TEACHER, found.teacher), (STUDENT, found.student)):
        means = [model.logprob(prompt, answer).item() / len(answer) for answer in answers]
        assert value == pytest.approx(sum(means) / 3, abs=1e-12)
    assert found.examples == 3 and found.gain == pytest.approx(found.teacher - found.student)
