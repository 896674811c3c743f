"""Batched sampling: each row as if it were alone, on a Llama and on our decoder."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.rollout.generate import generate, generate_padded, prompt_ids
from codex_ray.rollout.request import Completion
from codex_ray.rollout.sampling import row_seeds
from codex_ray.tokenizer import Tokenizer
from tests.unit.rollout.models import POSITIONS, gemma3, gpt2, llama, mhc, train_small_tokenizer

SAMPLED = {"temperature": 0.9, "top_k": 40, "top_p": 0.95}
GREEDY = {"temperature": 0.0}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module", params=[llama, gpt2, gemma3, mhc])
def model(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Any:
    return request.param(tokenizer.vocabulary_size).eval()


@pytest.fixture(scope="module")
def plain(tokenizer: Tokenizer) -> Any:
    return llama(tokenizer.vocabulary_size)


def prompts(tokenizer: Tokenizer, lengths: tuple[int, ...] = (1, 30, 7, 55, 12, 60)) -> list[list[int]]:
    random_ = random.Random(4)
    return [[1, *random_.choices(range(4, tokenizer.vocabulary_size), k=length)] for length in lengths]


def assert_equal(first: list[Completion], second: list[Completion]) -> None:
    for one, other in zip(first, second, strict=True):
        assert (one.ids, one.text, one.finish_reason) == (other.ids, other.text, other.finish_reason)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED])
def test_a_ragged_batch_equals_its_rows_alone(
    model: Any, tokenizer: Tokenizer, settings: dict[str, Any]
) -> None:
    rows = prompts(tokenizer)
    seeds = row_seeds(5, len(rows))
    together = generate(model, rows, max_new_tokens=20, seed=5, tokenizer=tokenizer, **settings)
    alone = [
        generate(model, [row], max_new_tokens=20, seed=[seed], tokenizer=tokenizer, **settings)[0]
        for row, seed in zip(rows, seeds, strict=True)
    ]
    assert_equal(together, alone)
    assert len({len(done.ids) for done in together}) > 1  # rows did leave the batch at different times
    split = generate(model, rows, max_new_tokens=20, seed=5, tokenizer=tokenizer, batch_rows=2, **settings)
    assert_equal(together, split)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("settings", [GREEDY, SAMPLED])
def test_padding_on_either_side_is_no_input(
    model: Any, tokenizer: Tokenizer, side: str, settings: dict[str, Any]
) -> None:
    rows = prompts(tokenizer)
    ids, mask = (torch.from_numpy(array) for array in tokenizer.pad_batch(rows, side=side))
    result = generate_padded(model, ids, mask, max_new_tokens=20, seed=5, tokenizer=tokenizer, **settings)
    expected = generate(model, rows, max_new_tokens=20, seed=5, tokenizer=tokenizer, **settings)
    assert_equal(result.completions, expected)
    assert result.prompt_lengths_B.tolist() == [len(row) for row in rows]
    for row, prompt in enumerate(rows):
        length = result.lengths_B[row]
        assert result.ids_BT[row, :length].tolist() == prompt + expected[row].ids
        assert set(result.ids_BT[row, length:].tolist()) <= {tokenizer.pad_id}
        assert tokenizer.pad_id not in result.ids_BT[row, :length]


def test_greedy_equals_the_argmax_of_whole_passes(model: Any, tokenizer: Tokenizer) -> None:
    row = prompts(tokenizer, (9,))[0]
    done = generate(model, [row], max_new_tokens=8, tokenizer=tokenizer, **GREEDY)[0]
    ids = list(row)
    for token, logprob in zip(done.ids, done.logprobs, strict=True):
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        assert logprob == pytest.approx(scores[token].item(), abs=1e-4)
        scores[tokenizer.pad_id] = -torch.inf
        assert token == scores.argmax()
        ids.append(token)


def test_padding_is_never_drawn_even_where_it_is_likeliest(plain: Any, tokenizer: Tokenizer) -> None:
    model = llama(tokenizer.vocabulary_size)
    with torch.no_grad():
        model.lm_head.weight[tokenizer.pad_id] = 3 * model.lm_head.weight.abs().amax(0)
        model.lm_head.weight[7] = -model.lm_head.weight[tokenizer.pad_id]
    for settings in (GREEDY, SAMPLED):
        done = generate(model, prompts(tokenizer), max_new_tokens=20, tokenizer=tokenizer, **settings)
        assert all(tokenizer.pad_id not in row.ids for row in done)


def test_rows_of_the_embedding_without_a_piece_are_never_drawn(tokenizer: Tokenizer) -> None:
    model = llama(tokenizer.vocabulary_size + 300)
    done = generate(model, prompts(tokenizer), max_new_tokens=30, tokenizer=tokenizer, temperature=2.0)
    assert max(token for row in done for token in row.ids) < tokenizer.vocabulary_size


def test_the_end_token_ends_a_row_and_is_not_text(tokenizer: Tokenizer) -> None:
    model = llama(tokenizer.vocabulary_size)
    model.generation_config.eos_token_id = [tokenizer.eos_id, 10]
    done = generate(model, prompts(tokenizer), max_new_tokens=60, tokenizer=tokenizer, temperature=3.0)
    ended = [row for row in done if row.finish_reason == "stop"]
    assert {row.ids[-1] for row in ended} <= {tokenizer.eos_id, 10}
    for row in done:
        assert not {tokenizer.eos_id, 10} & set(row.ids[:-1])
        assert row.text == tokenizer.decode(row.ids[:-1] if row.finish_reason == "stop" else row.ids)


def test_a_row_ends_at_the_models_last_position(model: Any, tokenizer: Tokenizer) -> None:
    model.generation_config.eos_token_id = None
    rows = prompts(tokenizer, (POSITIONS - 2, POSITIONS - 11))
    done = generate(model, rows, max_new_tokens=40, tokenizer=tokenizer, **GREEDY)
    assert [(len(row.ids), row.finish_reason) for row in done] == [(1, "length"), (10, "length")]


def test_a_stop_string_ends_a_row_and_nothing_of_it_is_shown(plain: Any, tokenizer: Tokenizer) -> None:
    rows = prompts(tokenizer, (5, 9, 14))
    free = generate(plain, rows, max_new_tokens=30, seed=1, tokenizer=tokenizer, **SAMPLED)
    stops = [row.text[10:14] for row in free]
    shown = ["", "", ""]

    def show(row: int, token: int, text: str) -> None:
        shown[row] += text

    done = generate(
        plain, rows, max_new_tokens=30, seed=1, tokenizer=tokenizer, stop=stops, on_token=show, **SAMPLED
    )
    assert shown == [row.text for row in done]
    for row, unstopped in zip(done, free, strict=True):
        assert row.finish_reason == "stop"
        assert unstopped.text.startswith(row.text)
        assert not any(stop in row.text for stop in stops)
        assert row.ids == unstopped.ids[: len(row.ids)]
        assert any(unstopped.text[len(row.text) :].startswith(stop) for stop in stops)


def test_streamed_pieces_add_up_to_the_text(plain: Any, tokenizer: Tokenizer) -> None:
    shown = ["", ""]
    drawn: list[list[int]] = [[], []]

    def show(row: int, token: int, text: str) -> None:
        shown[row] += text
        drawn[row].append(token)

    rows = prompts(tokenizer, (3, 20))
    done = generate(
        plain, rows, max_new_tokens=40, seed=2, tokenizer=tokenizer, temperature=3.0, on_token=show
    )
    assert shown == [row.text for row in done] == [tokenizer.decode(row.ids) for row in done]
    assert drawn == [row.ids for row in done]


def test_the_seed_decides(plain: Any, tokenizer: Tokenizer) -> None:
    rows = prompts(tokenizer, (5, 5)) * 2
    first = generate(plain, rows, max_new_tokens=20, seed=1, tokenizer=tokenizer, **SAMPLED)
    assert first == generate(plain, rows, max_new_tokens=20, seed=1, tokenizer=tokenizer, **SAMPLED)
    other = generate(plain, rows, max_new_tokens=20, seed=2, tokenizer=tokenizer, **SAMPLED)
    texts = [row.text for row in [*first, *other]]
    assert len(set(texts)) == len(texts)  # equal prompts differ, too


def test_the_model_is_left_in_the_mode_it_was_in(plain: Any, tokenizer: Tokenizer) -> None:
    plain.train()
    generate(plain, prompts(tokenizer, (3,)), max_new_tokens=2, tokenizer=tokenizer)
    assert plain.training


def test_prompts_begin_with_the_beginning_of_text(tokenizer: Tokenizer) -> None:
    assert prompt_ids(tokenizer, ["", "import os"]) == [[1], [1, *tokenizer.encode("import os")]]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([[1, 5], []], "prompt 2 has no tokens"),
        ([[1, 5], [5] * POSITIONS], f"prompt 2 has {POSITIONS} tokens and the model takes {POSITIONS}"),
        ([[1, 5, 100_000]], "prompt 1 holds token 100000"),
    ],
)
def test_impossible_prompts_are_refused(
    plain: Any, tokenizer: Tokenizer, rows: list[list[int]], sentence: str
) -> None:
    with pytest.raises(CodexRayError, match=sentence):
        generate(plain, rows, max_new_tokens=5, tokenizer=tokenizer)


def test_impossible_settings_are_refused(plain: Any, tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="max_new_tokens"):
        generate(plain, [[1]], max_new_tokens=0, tokenizer=tokenizer)
    with pytest.raises(ConfigError, match="2 seeds for 1 prompts"):
        generate(plain, [[1]], max_new_tokens=1, seed=[1, 2], tokenizer=tokenizer)


def test_logits_that_are_not_finite_are_refused(tokenizer: Tokenizer) -> None:
    model = llama(tokenizer.vocabulary_size)
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    with pytest.raises(CodexRayError, match="not finite"):
        generate(model, [[1, 5]], max_new_tokens=5, tokenizer=tokenizer)
