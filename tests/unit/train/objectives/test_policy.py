"""Policy gradients, GRPO and PPO: closed forms, expectations over all answers, NumPy by hand."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.model.head import TokenHead, attach_value_head
from codex_ray.train.objectives.grpo import GRPO, group_advantages
from codex_ray.train.objectives.normalisation import Normalisation
from codex_ray.train.objectives.objective import nothing_added
from codex_ray.train.objectives.policy_gradient import PolicyGradient
from codex_ray.train.objectives.ppo import PPO
from codex_ray.train.objectives.ratios import clipped, kl_estimate
from codex_ray.train.objectives.returns import gae, later, order
from codex_ray.train.objectives.scoring import logprobs
from codex_ray.train.objectives.sequences import Sequences
from tests.unit.model.small import build, stir
from tests.unit.train.objectives.tabular import SEQUENCES, STUDENT, TEACHER, Tabular, gradient

REWARDS = {answer: float((3 * answer[0] + 5 * answer[1]) % 7) for answer in SEQUENCES}


def rows(answers: Any, masks: Any = None, **known: Any) -> Sequences:
    return Sequences.of_completions([[STUDENT]] * len(answers), answers, masks=masks, **known)


def ragged(seed: int = 0) -> tuple[Any, Sequences]:
    """A small decoder and rows of unequal length, with numbers that other policies would have given."""
    model = stir(build()).double()
    generator = torch.Generator().manual_seed(seed)
    made = Sequences.of(
        [[5, 6, 7, 8, 2], [9, 10, 11], [12, 13, 14, 15, 16, 17, 2]],
        [
            [False, False, True, True, True],
            [False, True, True],
            [False, True, True, False, False, True, True],
        ],
        rows={"rewards": [1.0, 0.0, 2.0], "advantages": [1.5, -2.0, 0.5]},
    )
    logprob_T = logprobs(TokenHead(model), model, made)

    def near() -> Tensor:
        return logprob_T + 0.4 * torch.randn(logprob_T.shape, generator=generator, dtype=torch.float64)

    known = {
        name: near() for name in ("sampler_logprobs", "old_logprobs", "reference_logprobs", "advantages")
    }
    return model, made.with_tokens(**known)


def test_single_position_with_a_ratio_of_one() -> None:
    model = Tabular()
    torch.nn.init.zeros_(model.table.weight)
    sampler = [[float(np.log(1 / 3))]]
    micro = rows([[0]], logprobs=sampler).with_tokens(advantages=torch.tensor([2.0]))
    objective = PolicyGradient(TokenHead(model))
    assert objective.weight(micro) == 0  # a plain sum: the loop divides by 1
    objective.loss(model, micro, 1).backward()
    assert model.table.weight.grad[:, 0].tolist() == pytest.approx([-4 / 3, 2 / 3, 2 / 3], rel=1e-6)


def test_the_ratio_corrects_for_the_sampler() -> None:
    model = Tabular()
    sampler = Tabular(9)
    expected = torch.zeros_like(model.table.weight)
    for answer in SEQUENCES:  # rewarded for the first token alone, whose ratio is its own
        logs_TV = sampler(torch.tensor([[STUDENT, *answer]])).logits[0].log_softmax(-1).detach()
        micro = rows([answer]).with_tokens(
            sampler_logprobs=logs_TV[[0, 1], list(answer)],
            advantages=torch.tensor([float(answer[0] == 1), 0.0]),
        )
        loss = PolicyGradient(TokenHead(model)).loss(model, micro, 1)
        expected += sampler.logprob(STUDENT, answer).exp().detach() * gradient(loss, model)
    first = model(torch.tensor([[STUDENT]])).logits[0, 0].softmax(-1)[1]
    assert torch.allclose(expected, -gradient(first, model), atol=1e-14)


def test_shaping_sums_to_nothing_over_all_micro_batches() -> None:
    model, made = ragged()
    made = made.with_tokens(sampler_logprobs=made.at("sampler_logprobs"), advantages=torch.ones(9).double())
    objective = PolicyGradient(TokenHead(model), shaping=0.3)
    parts = objective.prepare(model, made.split(8, at_least=4), nothing_added)
    added = torch.cat([part.at("advantages") - 1.0 for part in parts])
    assert added.sum().item() == pytest.approx(0.0, abs=1e-12) and added.abs().max() > 0.01
    apart_T = made.at("sampler_logprobs") - logprobs(TokenHead(model), model, made)
    whole = objective.prepare(model, [made], nothing_added)[0].at("advantages") - 1.0
    assert torch.allclose(whole, 0.3 * (apart_T.mean() - apart_T), atol=1e-12)
    same = made.with_tokens(sampler_logprobs=logprobs(TokenHead(model), model, made))
    assert torch.allclose(
        objective.prepare(model, [same], nothing_added)[0].at("advantages"), torch.ones(9).double()
    )


@given(
    st.lists(st.tuples(st.floats(-10, 10), st.integers(0, 3)), min_size=1, max_size=20),
    st.randoms(use_true_random=False),
)
def test_group_advantages_know_only_their_group(
    pairs: list[tuple[float, int]], shuffle: random.Random
) -> None:
    rewards, groups = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    found = group_advantages(rewards, groups)
    for group in set(groups):
        own = [index for index, other in enumerate(groups) if other == group]
        values = np.array([rewards[index] for index in own])
        if values.min() == values.max():
            assert all(found[index] == 0.0 for index in own)
            continue
        expected = (values - values.mean()) / (values.std(ddof=1) + 1e-4)
        assert [found[index] for index in own] == pytest.approx(expected.tolist(), abs=1e-9)
        assert sum(found[index] for index in own) == pytest.approx(0.0, abs=1e-6)
    places = list(range(len(pairs)))
    shuffle.shuffle(places)
    again = group_advantages([rewards[place] for place in places], [groups[place] for place in places])
    assert again == pytest.approx([found[place] for place in places], abs=1e-9)
    shifted = group_advantages([reward + 3 for reward in rewards], groups, standardise=False)
    plain = group_advantages(rewards, groups, standardise=False)
    assert shifted == pytest.approx(plain, abs=1e-9)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.0),
        (1.5, 2.0, -2.6, 0.0),  # held at 1.3
        (0.5, 2.0, -1.0, -2.0),
        (1.5, -2.0, 3.0, 2.0),
        (0.5, -2.0, 1.6, 0.0),  # held at 0.8
    ],
)
def test_clipping(ratio: float, advantage: float, loss: float, slope: float) -> None:
    given_T = torch.tensor([ratio], dtype=torch.float64, requires_grad=True)
    found_T, stopped_T = clipped(given_T, torch.tensor([advantage], dtype=torch.float64), 0.2, 0.3)
    found_T.sum().backward()
    assert found_T.item() == pytest.approx(loss) and given_T.grad is not None
    assert given_T.grad.item() == pytest.approx(slope) and bool(stopped_T) is (slope == 0.0)


def test_kl_estimates_as_losses() -> None:
    model = Tabular(2)
    teacher_V = model(torch.tensor([[TEACHER]])).logits[0, 0].log_softmax(-1).detach()

    def in_expectation(loss: Any) -> Tensor:
        total = torch.zeros_like(model.table.weight)
        for token in range(3):
            own = model(torch.tensor([[STUDENT]])).logits[0, 0].log_softmax(-1)
            total += own[token].exp().detach() * gradient(loss(own[token], teacher_V[token]), model)
        return total

    own_V = model(torch.tensor([[STUDENT]])).logits[0, 0].log_softmax(-1)
    reverse = gradient((own_V.exp() * (own_V - teacher_V)).sum(), model)
    own_V = model(torch.tensor([[STUDENT]])).logits[0, 0].log_softmax(-1)
    forward = gradient((teacher_V.exp() * (teacher_V - own_V)).sum(), model)
    assert torch.allclose(
        in_expectation(lambda one, other: kl_estimate(one, other, "k3")), forward, atol=1e-15
    )
    assert torch.allclose(
        in_expectation(lambda one, other: kl_estimate(one, other, "k2")), reverse, atol=1e-15
    )
    assert in_expectation(lambda one, other: one - other).abs().max() < 1e-15
    with pytest.raises(ConfigError, match="k2 or k3"):
        kl_estimate(own_V, teacher_V, "k1")


def test_grpo_in_expectation_is_the_gradient_of_the_expected_reward() -> None:
    model = Tabular(4)
    mean = sum(
        (model.logprob(STUDENT, answer).exp() * reward for answer, reward in REWARDS.items()), torch.zeros(())
    )
    slope = gradient(mean, model)
    found = torch.zeros_like(model.table.weight)
    objective = GRPO(TokenHead(model), normalisation=Normalisation("nothing"), most_importance=0)
    for answer, reward in REWARDS.items():
        micro = rows([answer], rows={"advantages": [reward - mean.item()]})
        loss = objective.loss(model, micro, 1)
        found += model.logprob(STUDENT, answer).exp().detach() * gradient(loss, model)
    assert torch.allclose(found, -slope, atol=1e-6)


NORMALISATIONS = [
    Normalisation(),
    Normalisation("tokens"),
    Normalisation("length", 5),
    Normalisation("nothing"),
]


@pytest.mark.parametrize("normalisation", NORMALISATIONS, ids=lambda one: one.over)
@pytest.mark.parametrize("kind", ["k2", "k3"])
def test_grpo_is_what_numpy_makes_of_it(normalisation: Normalisation, kind: str) -> None:
    model, made = ragged()
    head = TokenHead(model)
    objective = GRPO(
        head,
        normalisation=normalisation,
        clip_high=0.28,
        updates=2,
        most_importance=1.3,
        kl=0.2,
        kl_kind=kind,
    )
    new, old, sampler, reference = (
        one.numpy()
        for one in (
            logprobs(head, model, made),
            *map(made.at, ("old_logprobs", "sampler_logprobs", "reference_logprobs")),
        )
    )
    owner, advantage = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2]), np.array([1.5, -2.0, 0.5])
    ratio = np.exp(new - old)
    per_token = np.maximum(-ratio * advantage[owner], -np.clip(ratio, 0.8, 1.28) * advantage[owner])
    per_token = per_token * np.minimum(np.exp(old - sampler), 1.3)
    apart = reference - new
    per_token = per_token + 0.2 * (np.exp(apart) - apart - 1 if kind == "k3" else apart**2 / 2)
    expected = {
        "rows": np.mean([per_token[owner == row].mean() for row in range(3)]),
        "tokens": per_token.mean(),
        "length": per_token.sum() / 5 / 3,
        "nothing": per_token.sum(),
    }[normalisation.over]
    parts = made.split(9, at_least=4)
    total = max(1, sum(objective.weight(part) for part in parts))
    for batch in ([made], parts):
        loss = sum(objective.loss(model, part, total).item() for part in batch)
        assert loss == pytest.approx(expected, abs=1e-6)
    figures = objective.figures.means(objective.figures.take())
    assert figures["importance_ratio"] == pytest.approx(np.minimum(np.exp(old - sampler), 1.3).mean())
    assert 0 < figures["clip_share"] < 1 and figures["entropy"] > 0


def test_grpo_prepares_only_what_it_needs() -> None:
    model, made = ragged()
    head = TokenHead(model)
    assert GRPO(head).prepare(model, [made], nothing_added) == [made]
    micro = GRPO(head, updates=3, kl=0.1).prepare(model, [made], nothing_added)[0]
    now = logprobs(head, model, made)
    assert torch.equal(micro.at("old_logprobs"), now) and torch.equal(micro.at("reference_logprobs"), now)
    with pytest.raises(CodexRayError, match="hold no sampler_logprobs"):
        GRPO(head).loss(model, Sequences.of([[5, 6]], [[False, True]], rows={"advantages": [1.0]}), 1)
    for wrong in ({"over": "days"}, {"over": "length"}, {"over": "rows", "length": 3}):
        with pytest.raises(ConfigError, match="normalisation"):
            Normalisation(**wrong)
    with pytest.raises(ConfigError, match="kl_kind"):
        GRPO(head, kl_kind="k1")


def test_figures_along_rows_leave_gaps_out() -> None:
    _, made = ragged()
    figures_T = torch.arange(9).double()
    assert order(made).tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3]
    assert later(made, figures_T).tolist() == [3, 2, 0, 4, 0, 21, 15, 8, 0]


@pytest.mark.parametrize(("discount", "trace"), [(0.9, 0.8), (1.0, 0.95), (0.7, 0.0), (0.9, 1.0)])
def test_gae_is_its_definition(discount: float, trace: float) -> None:
    _, made = ragged()
    generator = np.random.default_rng(3)
    rewards, values = generator.normal(size=9), generator.normal(size=9)
    advantage_T, return_T = gae(
        made, torch.tensor(rewards), torch.tensor(values), discount=discount, trace=trace
    )
    for first, last in ((0, 3), (3, 5), (5, 9)):
        after = [*values[first + 1 : last], 0.0]
        delta = rewards[first:last] + discount * np.array(after) - values[first:last]
        for t in range(last - first):
            expected = sum((discount * trace) ** k * delta[t + k] for k in range(last - first - t))
            assert advantage_T[first + t].item() == pytest.approx(expected, abs=1e-12)
            if trace == 1.0:  # what came, minus what was expected
                came = sum(discount**k * rewards[first + t + k] for k in range(last - first - t))
                assert expected == pytest.approx(came - values[first + t], abs=1e-12)
    assert torch.allclose(return_T, advantage_T + torch.tensor(values))


def valued() -> tuple[Any, Sequences, TokenHead]:
    model, made = ragged()
    torch.nn.init.normal_(attach_value_head(model).weight)
    return model, made, TokenHead(model)


def test_ppo_prepares_advantages_over_the_batch() -> None:
    model, made, head = valued()
    whole = PPO(head, kl=0.2, trace=0.9).prepare(model, [made], nothing_added)[0]
    assert whole.at("advantages").mean().item() == pytest.approx(0.0, abs=1e-7)
    assert whole.at("advantages").std(correction=0).item() == pytest.approx(1.0, abs=1e-6)
    parts = PPO(head, kl=0.2, trace=0.9).prepare(model, made.split(9, at_least=4), nothing_added)
    scattered = sorted(torch.cat([part.at("advantages") for part in parts]).tolist())
    assert scattered == pytest.approx(sorted(whole.at("advantages").tolist()), abs=1e-6)
    plain = PPO(head, whiten=False, trace=1.0).prepare(model, [made], nothing_added)[0]
    came = torch.tensor([1.0, 0.0, 2.0]).double()[made.owners]  # the reward comes last, and nothing else
    assert torch.allclose(plain.at("returns"), came, atol=1e-6)
    assert torch.allclose(plain.at("advantages"), came - plain.at("old_values"), atol=1e-6)


def test_ppo_is_what_numpy_makes_of_it() -> None:
    model, made, head = valued()
    objective = PPO(head, value_weight=0.3, value_clip=0.1, clip=0.15)
    micro = objective.prepare(model, [made], nothing_added)[0]
    at_first = objective.loss(model, micro, 9)
    start = 0.3 * 0.5 * np.mean((micro.at("old_values") - micro.at("returns")).numpy() ** 2)
    assert at_first.item() == pytest.approx(start, abs=1e-6)  # ratios are 1 and advantages add up to 0
    shift = 0.3 * torch.randn(9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    micro = micro.with_tokens(
        old_logprobs=micro.at("old_logprobs") + shift, old_values=micro.at("old_values") + shift
    )
    new, old, values, before, advantage, returns = (
        one.numpy()
        for one in (
            logprobs(head, model, made), micro.at("old_logprobs"), micro.at("old_values") - shift,
            micro.at("old_values"), micro.at("advantages"), micro.at("returns"),
        )
    )  # fmt: skip
    ratio = np.exp(new - old)
    policy = np.maximum(-ratio * advantage, -np.clip(ratio, 0.85, 1.15) * advantage)
    near = before + np.clip(values - before, -0.1, 0.1)
    value = 0.5 * np.maximum((values - returns) ** 2, (near - returns) ** 2)
    objective.figures.take()
    loss = objective.loss(model, micro, 9)
    assert loss.item() == pytest.approx((policy + 0.3 * value).mean(), abs=1e-6)
    assert objective.figures.means(objective.figures.take())["value_loss"] == pytest.approx(
        value.mean(), abs=1e-6
    )
    loss.backward()
    assert model.value_head.weight.grad.any() and model.lm_head.weight.grad.any()


def test_a_micro_batch_without_rows_changes_nothing() -> None:
    model, made, head = valued()
    objective = PPO(head)
    with_blank = objective.prepare(model, [made, made.blank(1)], nothing_added)
    alone = objective.prepare(model, [made], nothing_added)
    assert torch.equal(with_blank[0].at("advantages"), alone[0].at("advantages"))
    assert objective.weight(with_blank[1]) == 0 and objective.loss(model, with_blank[1], 9).item() == 0.0
