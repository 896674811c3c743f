"""A second set of weights: frozen, following, in place, and in the optimizer's state."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from codex_ray.model.head import evaluating
from codex_ray.train.held import HeldWeights


def made(rate: float) -> tuple[nn.Parameter, torch.optim.Optimizer, HeldWeights, list[str]]:
    weight = nn.Parameter(torch.zeros(3))
    optimizer, refreshed = torch.optim.AdamW([weight], lr=0.1), []
    held = HeldWeights(optimizer, lambda: [weight], lambda: refreshed.append("again"), rate=rate)
    return weight, optimizer, held, refreshed


def step(weight: nn.Parameter, optimizer: torch.optim.Optimizer, to: float) -> None:
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    with torch.no_grad():
        weight.fill_(to)


def value(held: HeldWeights, weight: nn.Parameter) -> list[float]:
    with held.in_place():
        return weight.tolist()


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.3, 1.0])
def test_after_k_updates_towards_a_constant(rate: float) -> None:
    weight, optimizer, held, refreshed = made(rate)
    for k in range(1, 30):
        step(weight, optimizer, 1.0)
        held.update()
        assert value(held, weight) == pytest.approx([1 - (1 - rate) ** k] * 3, abs=1e-6)
        assert weight.tolist() == [1.0] * 3
    assert refreshed == ["again"] * 58
    assert rate not in (0.0, 1.0) or value(held, weight) == [rate] * 3  # exactly frozen, exactly a copy


def test_a_small_rate_moves_where_bf16_would_not() -> None:
    weight, optimizer, held, _ = made(0.01)
    step(weight, optimizer, 1.0)
    held.update()
    low = torch.ones((), dtype=torch.bfloat16)
    for _ in range(1000):
        low = 0.01 * torch.tensor(1.0078, dtype=torch.bfloat16) + 0.99 * low
    assert low.item() == 1.0
    for _ in range(1000):
        step(weight, optimizer, 1.0078)
        held.update()
    assert value(held, weight) == pytest.approx([1.0078] * 3, abs=1e-4)


def test_they_travel_in_the_optimizers_state() -> None:
    weight, optimizer, held, _ = made(0.5)
    assert value(held, weight) == [0.0] * 3  # before any update, as the weights are
    step(weight, optimizer, 1.0)
    held.update()
    saved = copy.deepcopy(optimizer.state_dict())
    again, other, loaded, _ = made(0.5)
    other.load_state_dict(saved)
    with torch.no_grad():
        again.copy_(weight)
    assert value(loaded, again) == [0.5] * 3
    for pair in ((weight, optimizer, held), (again, other, loaded)):
        step(pair[0], pair[1], 2.0)
        pair[2].update()
    assert value(loaded, again) == value(held, weight) == [1.25] * 3


def test_weights_come_back_where_scoring_fails() -> None:
    weight, optimizer, held, _ = made(0.0)
    step(weight, optimizer, 1.0)
    with pytest.raises(ZeroDivisionError), held.in_place():
        raise ZeroDivisionError
    assert weight.tolist() == [1.0] * 3


@pytest.mark.parametrize("training", [True, False])
def test_scoring_is_without_dropout(training: bool) -> None:
    module: Any = nn.Dropout(0.5).train(training)
    with evaluating(module):
        assert not module.training
    assert module.training is training
