"""Divergences of two distributions: numbers, gradients, and what holds whatever they are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from codex_ray.errors import ConfigError
from codex_ray.model.head import TokenHead
from codex_ray.train.objectives.divergence import Divergence, compare
from codex_ray.train.objectives.sequences import Sequences
from tests.unit.model.small import build, stir

S = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)
T = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64)


def found(mix: float, student: Tensor = S, teacher: Tensor = T) -> tuple[float, list[float]]:
    logits = student.log().requires_grad_()
    value = Divergence(mix).of(teacher.log(), logits.log_softmax(-1)).sum()
    value.backward()
    assert logits.grad is not None
    return value.item(), logits.grad[0].tolist()


def test_single_position() -> None:
    value, gradient = found(1.0)
    assert value == pytest.approx(0.0992727822, abs=1e-10)
    assert gradient == pytest.approx([0.1660396, -0.0644833, -0.1015564], abs=1e-7)
    value, gradient = found(0.0)
    assert value == pytest.approx(0.1166224525, abs=1e-10)
    assert gradient == pytest.approx([0.2, -0.05, -0.15], abs=1e-12)
    assert found(0.5)[0] == pytest.approx(0.0263676882, abs=1e-10)


def test_forward_is_torchs_kl_div_of_student_and_teacher() -> None:
    torchs = torch.nn.functional.kl_div(S.log(), T.log(), log_target=True, reduction="sum")
    assert found(0.0)[0] == pytest.approx(torchs.item(), abs=1e-12)


def test_impossible_divergences_are_refused() -> None:
    for wrong in ({"mix": 1.5}, {"top_k": -1}, {"top_k_of": "both"}):
        with pytest.raises(ConfigError, match="cannot be"):
            Divergence(**wrong)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.integers(1, 12))
def test_top_k_with_tail_lies_between_nothing_and_all(seed: int, mix: float, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(2, 5, 12, generator=generator, dtype=torch.float64)).log_softmax(-1)
    whole = Divergence(mix).of(teacher, student)
    some = Divergence(mix, top_k=k)
    chosen = teacher.topk(k).indices
    part = some.of(some.buckets(teacher, chosen), some.buckets(student, chosen))
    assert (part >= 0).all() and (part <= whole + 1e-12).all()
    assert k < 12 or torch.allclose(part, whole, atol=1e-12)
    bare = Divergence(mix, top_k=k, tail=False)
    renormalised = bare.buckets(teacher, chosen)
    assert torch.allclose(renormalised.exp().sum(-1), torch.ones(5, dtype=torch.float64))
    assert (bare.of(renormalised, bare.buckets(student, chosen)) >= -1e-15).all()


@pytest.mark.parametrize("mix", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("of", ["teacher", "student"])
def test_the_whole_vocabulary_as_top_k_is_all_of_it(mix: float, of: str) -> None:
    model = stir(build()).double()
    student = Sequences.of([[5, 6, 7, 8], [9, 10, 2]], [[False, False, True, True], [False, True, True]])
    teacher = Sequences.of([[4, 7, 8], [11, 12, 13, 10, 2]], [[False, True, True], [False] * 3 + [True] * 2])
    gradients, values = [], []
    for divergence in (Divergence(mix), Divergence(mix, 61, of), Divergence(mix, 61, of, tail=False)):
        for logits_at_once in (2**24, 61):
            head = TokenHead(model, logits_at_once=logits_at_once)
            compared = compare(
                head, model, student, teacher, weights=torch.no_grad, divergence=divergence, temperature=0.8
            )
            values.append(compared.divergence_T.detach())
            model.zero_grad()
            compared.divergence_T.sum().backward()
            gradients.append(model.lm_head.weight.grad.clone())
    for value, gradient in zip(values, gradients, strict=True):
        assert torch.allclose(value, values[0], atol=1e-12)
        assert torch.allclose(gradient, gradients[0], atol=1e-10)
    narrow = compare(
        head,
        model,
        student,
        teacher,
        weights=torch.no_grad,
        divergence=Divergence(mix, 5, of),
        temperature=0.8,
    ).divergence_T
    assert (narrow < values[0]).all() and (narrow > 0).all()


def test_other_tokens_are_refused() -> None:
    model = build()
    one, other = (Sequences.of([[5, token]], [[False, True]]) for token in (6, 7))
    with pytest.raises(ConfigError, match="same tokens"):
        compare(TokenHead(model), model, one, other, weights=torch.no_grad, divergence=Divergence())
