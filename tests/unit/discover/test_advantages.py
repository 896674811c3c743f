"""Entropic advantages: numbers, limits, invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from codex_ray.config.discover import Learn
from codex_ray.discover.advantages import (
    MOST_BETA,
    TARGET,
    adaptive_beta,
    entropic_advantages,
    kl_to_uniform,
    mean_baseline,
    tilt,
)
from codex_ray.discover.objectives import Advantages


def group_advantages(rewards):
    return Advantages(Learn()).of(rewards)[0]


def informative(rewards):
    return group_advantages(rewards).any()


GROUPS = st.lists(st.floats(-5, 5).map(lambda x: round(x, 3)), min_size=3, max_size=24)


@pytest.mark.parametrize(
    ("rewards", "beta", "advantages"),
    [
        ([0, 0, 0, 1], 2.553244909, [-0.797963] * 3 + [11.848729]),
        ([0, 1, 2, 3], 1.445859224, [-0.969633, -0.866698, -0.338701, 8.865418]),
        ([0] * 7 + [1], 2.465387837, [-0.606034] * 7 + [10.768045]),
        ([0] * 63 + [1], 3.359879073, [-0.306058] * 63 + [27.785710]),
    ],
)
def test_beta_and_advantages(rewards: list[float], beta: float, advantages: list[float]) -> None:
    assert adaptive_beta(rewards) == pytest.approx(beta, abs=1e-9)
    assert kl_to_uniform(rewards, beta) == pytest.approx(TARGET, abs=1e-9)
    assert group_advantages(rewards).tolist() == pytest.approx(advantages, abs=1e-6)


def test_ties_at_the_top() -> None:
    assert group_advantages([0, 0, 1, 1]).tolist() == pytest.approx([-1, -1, 2, 2], abs=1e-6)
    for count, winners in ((8, 5), (7, 6), (9, 8)):
        rewards = [0.0] * (count - winners) + [1.0] * winners
        assert adaptive_beta(rewards) == MOST_BETA  # which does not reach ln 2
        expected = [-1.0] * (count - winners) + [(count - winners) / (winners - 1)] * winners
        assert group_advantages(rewards).tolist() == pytest.approx(expected, abs=1e-9)
    assert group_advantages([0, 0, 0, 1, 1, 1, 1, 1])[7] == pytest.approx(0.75)


def test_small_groups_and_near_ties_do_not_blow_up() -> None:
    pair = [0.5, 0.500025]
    beta = adaptive_beta(pair)
    e = [math.exp(beta * (reward - pair[1])) for reward in pair]
    assert beta == MOST_BETA and 1 / (e[0] + 1e-12) > 1e10  # what the formula gives
    assert entropic_advantages(pair, beta).max() <= 20
    assert group_advantages(pair).tolist() == pytest.approx([-1.25e-5, 1.25e-5])
    assert entropic_advantages([0.0, 1.0, 2.0], 3.0, most=1.5).max() == 1.5
    for count in range(3, 80):  # one winner is the largest that a solved beta gives
        assert group_advantages([0.0] * (count - 1) + [1.0]).max() < max(count, 20)
    assert group_advantages([1.0]).tolist() == [0.0] and adaptive_beta([1.0]) == 0.0
    assert group_advantages([2.0, 2.0, 2.0]).tolist() == [0.0] * 3 and adaptive_beta([2.0] * 3) == 0.0
    assert informative([0.0, 1.0]) and not informative([1.0, 1.0]) and not informative([1.0])
    assert mean_baseline([]).tolist() == []


def test_one_winner_in_closed_form() -> None:
    for count, gap in ((3, 1.0), (16, 0.25), (64, 4.0)):
        low, high = 1 / count, 1.0
        for _ in range(200):
            q = (low + high) / 2
            kl = math.log(count) + q * math.log(q) + (1 - q) * math.log((1 - q) / (count - 1))
            low, high = (q, high) if kl < math.log(2) else (low, q)
        beta = adaptive_beta([0.0] * (count - 1) + [gap])
        assert beta * gap == pytest.approx(math.log(q * (count - 1) / (1 - q)), abs=1e-9)
        winner = group_advantages([0.0] * (count - 1) + [gap])[-1]
        assert winner == pytest.approx(math.exp(beta * gap) - 1, rel=1e-9)


def test_many_normal_rewards() -> None:
    rewards = np.random.default_rng(0).normal(3.0, 2.0, 200_000)
    assert adaptive_beta(rewards) * 2.0 == pytest.approx(math.sqrt(2 * math.log(2)), rel=0.01)


def test_a_small_beta_is_the_expected_reward() -> None:
    rewards = np.array([0.3, -1.0, 2.0, 0.7])
    expected = 1e-6 * 4 / 3 * (rewards - rewards.mean())
    assert entropic_advantages(rewards, 1e-6).tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_the_gradient_of_the_objective_is_the_tilted_policy_minus_the_policy() -> None:
    logits = torch.tensor([0.2, -1.0, 0.5, 0.1], dtype=torch.float64, requires_grad=True)
    rewards, beta = torch.tensor([0.0, 2.0, 1.0, -1.0], dtype=torch.float64), 0.8
    policy = logits.softmax(0)
    (policy * (beta * rewards).exp()).sum().log().backward()
    tilted = (logits + beta * rewards).softmax(0)
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx((tilted - policy).tolist(), abs=1e-15)


@given(GROUPS, st.floats(0.01, 3), st.floats(0.01, 3))
def test_the_divergence_rises_with_beta(rewards: list[float], beta: float, more: float) -> None:
    first, second = kl_to_uniform(rewards, beta), kl_to_uniform(rewards, beta + more)
    ties = sum(reward == max(rewards) for reward in rewards)
    assert -1e-12 <= first <= second + 1e-12 and second <= math.log(len(rewards) / ties) + 1e-12
    assert tilt(rewards, beta).sum() == pytest.approx(1.0)


@given(GROUPS, st.randoms(use_true_random=False))
def test_units_and_order_of_rewards_do_not_matter(rewards: list[float], shuffle: object) -> None:
    ties = sum(reward == max(rewards) for reward in rewards)
    assume(2 * ties < len(rewards))  # where beta is solved
    found = group_advantages(rewards)
    assert (found >= -1).all()
    moved = group_advantages([10 * reward + 5 for reward in rewards])
    assert moved.tolist() == pytest.approx(found.tolist(), rel=1e-6, abs=1e-6)
    places = list(range(len(rewards)))
    shuffle.shuffle(places)  # type: ignore[attr-defined]
    again = group_advantages([rewards[place] for place in places])
    assert again.tolist() == pytest.approx([found[place] for place in places], rel=1e-9, abs=1e-9)
