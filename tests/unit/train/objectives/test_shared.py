"""Rows of one prompt computed as one: the figures and gradients of rows by themselves, for less work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel

from codex_ray.model.head import TokenHead, attach_value_head
from codex_ray.train.objectives.policy_gradient import PolicyGradient
from codex_ray.train.objectives.scoring import score
from codex_ray.train.objectives.sequences import Sequences
from codex_ray.train.objectives.shared import attention_worth, together
from tests.unit.model.small import VOCABULARY, build, stir
from tests.unit.train.objectives.test_sequences import llama

MUCH = 10**6  # worth of attention by which all rows of a prompt are put together


def gpt2() -> Any:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **shape)).eval()


def ids(count: int, seed: int) -> list[int]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (count,), generator=draw).tolist()


def rollouts(shared: int, samples: int = 5) -> Sequences:
    """Answers to three prompts in turn; in every other one, what a tool said stands in the middle."""
    prompts = [ids(17, 1), ids(3, 2), ids(9, 3)] * samples
    answers = [ids(1 + 3 * row % 7, 9 + row) for row in range(len(prompts))]
    return Sequences.of_completions(
        prompts,
        answers,
        masks=[[row % 2 == 0 or place != 1 for place in range(len(one))] for row, one in enumerate(answers)],
        logprobs=[[-2.0] * len(one) for one in answers],
        rows={"number": [float(row) for row in range(len(prompts))]},
        shared=shared,
    )


def by_row(part: Sequences, figures_T: torch.Tensor) -> dict[tuple[int, int], float]:
    """Figures by the row's number and the token's place in it."""
    numbers, places = part.rows["number"][part.owners].int().tolist(), part.mask_BS.nonzero()[:, 1].tolist()
    return dict(zip(zip(numbers, places, strict=True), figures_T.tolist(), strict=True))


@pytest.mark.parametrize("make", [lambda: stir(build()), llama, gpt2], ids=["ours", "llama", "gpt2"])
def test_figures_and_gradients_are_those_of_rows_by_themselves(make: Any) -> None:
    found: list[dict[tuple[int, int], float]] = []
    gradients = []
    for shared in (0, MUCH):
        model = make().double()
        torch.manual_seed(5)
        torch.nn.init.normal_(attach_value_head(model).weight)
        head, figures = TokenHead(model), {}
        parts = rollouts(shared).split(200)
        assert any(part.laid for part in parts) is bool(shared)
        for part in parts:
            logprob_T, entropy_T, value_T = score(head, model, part, temperature=0.7, values=True)
            (logprob_T.square() + value_T).sum().backward()
            figures |= by_row(part, logprob_T + 10 * entropy_T + 100 * value_T)
        found.append(figures)
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert found[0].keys() == found[1].keys()
    assert list(found[1].values()) == pytest.approx([found[0][key] for key in found[1]], abs=1e-9)
    for one, other in zip(*gradients, strict=True):  # norms compute in fp32
        assert torch.allclose(one, other, atol=1e-4 * float(one.abs().max()) + 1e-9)


def test_a_search_learns_the_same() -> None:
    losses = []
    for shared in (0, MUCH):
        model = stir(build()).double()
        rows = rollouts(shared)
        rows = rows.with_tokens(advantages=rows.rows["number"][rows.owners].cos())
        gradient = PolicyGradient(TokenHead(model), shaping=0.3)
        micros = gradient.prepare(model, rows.split(120), lambda sums: sums)
        losses.append(sum(gradient.loss(model, micro, 1).item() for micro in micros))
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=24),
    st.integers(8, 200),
    st.integers(1, 6),
    st.sampled_from([1, 50, MUCH]),
)
def test_every_row_is_in_one_part_and_parts_are_of_bounded_size(
    rows: list[tuple[int, int]], most_tokens: int, at_least: int, worth: int
) -> None:
    prompts = [ids(2 + 5 * prompt, prompt) for prompt, _ in rows]
    numbers = {"number": [float(row) for row in range(len(rows))]}
    answers = [ids(length, row) for row, (_, length) in enumerate(rows)]
    learnt = Sequences.of_completions(prompts, answers, rows=numbers, shared=worth)
    parts = learnt.split(most_tokens, at_least=at_least)
    there = [int(one) for part in parts if part.real for one in part.rows["number"]]
    assert sorted(there) == list(range(len(rows)))
    assert len(parts) >= at_least
    longest = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    for part in parts:
        given = part.inputs()["input_ids"]
        assert given.numel() <= max(most_tokens, longest)
        assert not part.laid or sum(part.laid) == part.shape[0]


def test_as_many_stand_together_as_cost_least() -> None:
    """The work per completion by the number of them, all counted, against what is chosen."""
    prompt, length, worth = 110, 22, 6 * 96
    rows = Sequences.of_completions([ids(prompt, 1)] * 64, [ids(length, 2)] * 64, shared=worth)
    chosen = len(together(rows, 10**6)[0][0])

    def work(count: int) -> float:
        laid = prompt + count * length
        return laid * (worth + laid) / count

    best = min(range(1, 65), key=work)
    assert abs(chosen - best) <= 1
    assert work(chosen) < 0.4 * work(1)


def test_models_that_a_mask_cannot_keep_apart_compute_every_row() -> None:
    bloom = BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=2))
    assert attention_worth(bloom) == 0
    eager = llama()
    eager.set_attn_implementation("eager")
    assert attention_worth(eager) == 0
    assert attention_worth(llama()) == 6 * 24
