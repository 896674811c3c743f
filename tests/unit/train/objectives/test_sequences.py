"""Padded rows, their masks and micro-batches; log-probabilities of their tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.model.head import TokenHead, attach_value_head
from codex_ray.train.objectives.batching import deal, micro_batches
from codex_ray.train.objectives.scoring import logprobs, score
from codex_ray.train.objectives.sequences import Sequences
from tests.unit.model.small import VOCABULARY, build, stir

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
IDS = [[5, 9, 7, 30, 2], [11, 12], [4, 8, 15, 16, 23, 42, 60, 1, 2]]
MASKS = [[False, False, True, True, True], [False, True], [False] * 3 + [True, False, True, True, True, True]]


def llama() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()


def gemma() -> Any:
    torch.manual_seed(0)
    shape = SHAPE | {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8}
    return Gemma2ForCausalLM(Gemma2Config(**shape)).eval()


def expected(model: Any, ids: list[int], mask: list[bool], temperature: float) -> list[float]:
    """A row alone, by the plain forward."""
    logs = (model(torch.tensor([ids])).logits[0].double() / temperature).log_softmax(-1)
    return [logs[t - 1, ids[t]].item() for t in range(len(ids)) if mask[t]]


@pytest.mark.parametrize("make", [lambda: stir(build()), llama, gemma], ids=["ours", "llama", "soft-capped"])
@pytest.mark.parametrize("logits_at_once", [2**24, 2 * VOCABULARY])
def test_logprobs_in_a_padded_batch_are_those_of_rows_alone(make: Any, logits_at_once: int) -> None:
    model = make()
    head = TokenHead(model, logits_at_once=logits_at_once)
    for pad_id in (0, 2):  # also where the padding is the end token
        rows = Sequences.of(IDS, MASKS, pad_id=pad_id)
        for temperature in (1.0, 0.7):
            found = logprobs(head, model, rows, temperature=temperature).tolist()
            alone = [
                one
                for row, mask in zip(IDS, MASKS, strict=True)
                for one in expected(model, row, mask, temperature)
            ]
            assert found == pytest.approx(alone, abs=1e-5)
    assert "forward" not in vars(model.get_output_embeddings())


@pytest.mark.parametrize("make", [lambda: stir(build()), llama, gemma], ids=["ours", "llama", "soft-capped"])
def test_gradients_do_not_depend_on_the_parts(make: Any) -> None:
    gradients = []
    for logits_at_once in (2**24, 3 * VOCABULARY):
        model = make().double()
        rows = Sequences.of(IDS, MASKS)
        logprob_T, entropy_T = score(TokenHead(model, logits_at_once=logits_at_once), model, rows)
        assert not entropy_T.grad_fn or torch.isfinite(entropy_T).all()
        logprob_T.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    model = make().double()
    output = model(Sequences.of(IDS, MASKS).input_ids_BS).logits.log_softmax(-1)
    places, targets = Sequences.of(IDS, MASKS).places, Sequences.of(IDS, MASKS).targets
    output.flatten(0, 1)[places].gather(1, targets[:, None]).square().sum().backward()
    plain = [parameter.grad for parameter in model.parameters()]
    for one, other, reference in zip(*gradients, plain, strict=True):
        assert torch.allclose(one, other, atol=1e-12)
        assert torch.allclose(one, reference, atol=1e-9)


def test_a_batch_without_tokens_that_count_has_gradients_of_zero() -> None:
    model = build()
    rows = Sequences.of(IDS, MASKS).blank(2)
    assert rows.real == 0
    score(TokenHead(model), model, rows)[0].sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_values_begin_at_zero_and_follow_the_hidden_states() -> None:
    model = stir(build())
    value = attach_value_head(model)
    head, rows = TokenHead(model), Sequences.of(IDS, MASKS)
    assert not score(head, model, rows, values=True)[2].any()
    torch.nn.init.normal_(value.weight)
    found_T = score(head, model, rows, values=True)[2]
    hidden_TD = model.model(rows.input_ids_BS).last_hidden_state.flatten(0, 1)[rows.places]
    assert torch.allclose(found_T, value(hidden_TD).squeeze(-1), atol=1e-6)
    capped = gemma()
    attach_value_head(capped)
    with pytest.raises(ConfigError, match="changes its logits"):
        TokenHead(capped)


@pytest.mark.parametrize("training", [True, False])
def test_scores_without_a_gradient_are_without_dropout(training: bool) -> None:
    model = llama().train(training)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    head, rows = TokenHead(model), Sequences.of(IDS, MASKS)
    assert torch.equal(logprobs(head, model, rows), logprobs(head, model, rows))
    assert model.training is training
    drawn = score(head, model, rows)[0], score(head, model, rows)[0]
    assert torch.equal(*drawn) is not training


def test_entropy_is_that_of_the_distribution() -> None:
    model, rows = stir(build()), Sequences.of(IDS, MASKS)
    entropy_T = score(TokenHead(model), model, rows, temperature=0.5)[1]
    logits_TV = model(rows.input_ids_BS).logits.flatten(0, 1)[rows.places]
    plain = torch.distributions.Categorical(logits=logits_TV / 0.5).entropy()
    assert torch.allclose(entropy_T, plain, atol=1e-5)


def test_completions_stand_behind_their_prompts() -> None:
    rows = Sequences.of_completions(
        [[5, 6], [7, 8, 9]],
        [[10, 2], [11]],
        masks=[[False, True], [True]],
        logprobs=[[-1.0, -2.0], [-3.0]],
        rows={"rewards": [1.0, 0.0]},
    )
    assert rows.input_ids_BS.tolist() == [[5, 6, 10, 2], [7, 8, 9, 11]]
    assert (
        rows.targets.tolist() == [2, 11] and rows.owners.tolist() == [0, 1] and rows.places.tolist() == [2, 6]
    )
    assert rows.at("sampler_logprobs").tolist() == [-2.0, -3.0]
    added = rows.with_tokens(advantages=torch.tensor([0.5, -0.5])).with_rows(weights=torch.tensor([1.0, 2.0]))
    assert added.at("advantages").tolist() == [0.5, -0.5] and added.sums(added.at("advantages")).tolist() == [
        0.5,
        -0.5,
    ]
    with pytest.raises(CodexRayError, match="hold no values"):
        added.at("values")


@pytest.mark.parametrize(
    ("ids", "masks", "known", "said"),
    [
        ([[1, 2]], [[False]], {}, "mask has"),
        ([[1, 2]], [[False, True]], {"tokens": {"sampler_logprobs": [[0.0]]}}, "sampler_logprobs has"),
        ([[1, 2]], [[False, True]], {"rows": {"rewards": []}}, "rewards has 0 numbers"),
        ([[1, 2], [3]], [[False, True], [True]], {}, "row 1 has no prompt"),
        ([[]], [[]], {}, "row 0 has no tokens"),
    ],
)
def test_rows_that_do_not_fit_are_refused(ids: Any, masks: Any, known: Any, said: str) -> None:
    with pytest.raises(CodexRayError, match=said):
        Sequences.of(ids, masks, **known)


LENGTHS = st.lists(st.integers(1, 40), max_size=30)


@given(LENGTHS, st.integers(1, 90), st.integers(1, 12))
def test_micro_batches_hold_each_once_within_the_bound(lengths: list[int], most: int, at_least: int) -> None:
    groups = micro_batches(lengths, most, at_least)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert len(groups) >= at_least
    for group in groups:
        assert len(group) <= 1 or len(group) * max(lengths[index] for index in group) <= most
    assert groups == micro_batches(lengths, most, at_least)
    found = len(groups)
    assert len(micro_batches(lengths, most, found + 3)) == found + 3  # so that ranks can be brought in step


@given(LENGTHS, st.integers(1, 5))
def test_ranks_are_dealt_each_sequence_once_and_about_as_much(lengths: list[int], ranks: int) -> None:
    hands = deal(lengths, ranks)
    assert sorted(index for hand in hands for index in hand) == list(range(len(lengths)))
    held = [sum(lengths[index] for index in hand) for hand in hands]
    assert max(held) - min(held) <= max(lengths, default=0)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(2, 12), min_size=1, max_size=6),
    st.integers(4, 40),
    st.integers(1, 4),
    st.integers(1, 2),
)
def test_splitting_keeps_rows_tokens_and_pairs(
    lengths: list[int], most: int, at_least: int, unit: int
) -> None:
    lengths = [length for length in lengths for _ in range(unit)]
    ids = [[10 * row + place for place in range(length)] for row, length in enumerate(lengths)]
    masks = [[False] + [True] * (length - 1) for length in lengths]
    rows = Sequences.of(ids, masks, rows={"number": list(range(len(ids)))})
    parts = rows.split(most, at_least=at_least, unit=unit)
    seen = []
    for part in parts:
        assert part.shape[0] % unit == 0
        if part.real:
            numbers = [int(number) for number in part.rows["number"]]
            assert (
                all(b - a == 1 for a, b in zip(numbers[::unit], numbers[unit - 1 :: unit], strict=True))
                or unit == 1
            )
            seen += numbers
            for place, number in enumerate(numbers):
                assert part.input_ids_BS[place, : lengths[number]].tolist() == ids[number]
                assert int(part.counts[place]) == lengths[number] - 1
    assert sorted(seen) == list(range(len(ids)))


def test_a_rank_without_rows_stays_in_step() -> None:
    parts = Sequences.of([], [], rows={"rewards": []}).split(16, at_least=3, unit=2)
    assert [part.shape for part in parts] == [(2, 1)] * 3 and not any(part.real for part in parts)
