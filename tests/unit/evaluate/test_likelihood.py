"""Likelihood in windows against one pass over the whole sequence."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from codex_ray.errors import ConfigError
from codex_ray.evaluate import likelihood
from codex_ray.evaluate.likelihood import DocumentScore, Likelihood, score_sequences, windows

VOCABULARY = 50


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def sequence(length: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(VOCABULARY), k=length)


def one_pass(model: LlamaForCausalLM, ids: list[int]) -> list[float]:
    """Negative log-likelihood of each id after the first, from the logits of the whole sequence."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1].double()
    return torch.nn.functional.cross_entropy(
        logits, torch.tensor(ids[1:], dtype=torch.int64), reduction="none"
    ).tolist()


@given(st.integers(0, 400), st.integers(1, 60), st.floats(0.05, 1.0))
def test_windows_score_every_id_once_with_enough_context(length: int, context: int, share: float) -> None:
    stride = max(1, round(context * share))
    found = windows(length, context, stride)
    scored = [place for window in found for place in range(window.first, window.stop + 1)]
    assert scored == list(range(1, length))
    for window in found:
        assert window.stop - window.start <= context
        assert window.scored <= (context if window is found[0] else stride)
        for place in range(window.first, window.stop + 1):
            assert place - window.start >= min(place, context - stride + 1)


def test_a_sequence_that_fits_is_scored_in_one_pass(model: LlamaForCausalLM) -> None:
    sequences = [sequence(length, length) for length in (33, 2, 17, 1, 30, 33)]
    nats = score_sequences(model, sequences, context=32, batch_rows=4)
    assert nats == pytest.approx([sum(one_pass(model, ids)) for ids in sequences], rel=1e-5)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 1.0])
def test_windows_are_scored_as_computed_by_hand(model: LlamaForCausalLM, share: float) -> None:
    ids = sequence(83, 1)
    stride = max(1, round(16 * share))
    expected = 0.0
    for window in windows(len(ids), 16, stride):
        losses = one_pass(model, ids[window.start : window.stop + 1])
        expected += sum(losses[-window.scored :])
    assert score_sequences(model, [ids], context=16, stride_share=share)[0] == pytest.approx(
        expected, rel=1e-5
    )


def test_batches_do_not_change_a_score(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = [sequence(length, length) for length in (70, 3, 16, 45, 17, 18, 1)]
    alone = [score_sequences(model, [ids], context=16, batch_rows=1)[0] for ids in sequences]
    assert score_sequences(model, sequences, context=16, batch_rows=8) == pytest.approx(alone, rel=1e-5)
    monkeypatch.setattr(likelihood, "LOGITS_PER_BATCH", 2 * 16 * VOCABULARY)
    assert score_sequences(model, sequences, context=16, batch_rows=8) == pytest.approx(alone, rel=1e-5)


def test_more_context_is_never_invented(model: LlamaForCausalLM) -> None:
    """Ids after a window's end and padding beside a short window have no influence."""
    ids = sequence(40, 3)
    changed = [*ids[:-1], (ids[-1] + 1) % VOCABULARY]
    first, second = score_sequences(model, [ids, changed], context=64)
    losses, other = one_pass(model, ids), one_pass(model, changed)
    assert first - losses[-1] == pytest.approx(second - other[-1], rel=1e-5)


def test_progress_counts_every_scored_token(model: LlamaForCausalLM) -> None:
    seen = [0, 0]

    def add(owner: int, scored: int) -> None:
        seen[owner] += scored

    score_sequences(model, [sequence(50, 1), sequence(9, 2)], context=16, batch_rows=2, on_window=add)
    assert seen == [49, 8]


def test_figures() -> None:
    measured = Likelihood(
        [
            DocumentScore("a", nats=10 * math.log(2), tokens=4, bytes=5),
            DocumentScore("b", nats=0.0, tokens=1, bytes=5),
        ]
    )
    assert measured.bits_per_byte == pytest.approx(1.0)
    assert measured.perplexity == pytest.approx(2**2)
    assert (measured.tokens, measured.bytes) == (5, 10)


def test_an_impossible_stride_is_refused(model: LlamaForCausalLM) -> None:
    with pytest.raises(ConfigError, match="stride_share"):
        score_sequences(model, [[1, 2]], context=8, stride_share=0.0)
