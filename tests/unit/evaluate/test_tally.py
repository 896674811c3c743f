"""Token accuracy and calibration beside their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.evaluate.tally import BINS, TOPS, Tally


def counted(scores: torch.Tensor, targets: torch.Tensor) -> Tally:
    tally = Tally()
    tally.add(scores, targets, scores.logsumexp(-1))
    return tally


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(2, 30))
def test_accuracy_and_calibration_are_their_definitions(seed: int, tokens: int, vocabulary: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(tokens, vocabulary, generator=draw) * 3
    targets = torch.randint(vocabulary, (tokens,), generator=draw)
    tally = counted(scores, targets)
    order = scores.argsort(-1, descending=True)
    for top, name in zip(TOPS, ("accuracy_top_1", "accuracy_top_5", "accuracy_top_10"), strict=True):
        expected = sum(int(target) in row[:top].tolist() for target, row in zip(targets, order, strict=True))
        assert tally.figures()[name] == pytest.approx(expected / tokens)
    sure = scores.softmax(-1).amax(-1).double().numpy()
    right = (order[:, 0] == targets).numpy()
    places = np.minimum((sure * BINS).astype(int), BINS - 1)
    error = 0.0
    for place in range(BINS):
        mine = places == place
        if mine.any():
            error += mine.mean() * abs(sure[mine].mean() - right[mine].mean())
    assert tally.calibration_error == pytest.approx(error, abs=1e-5)
    assert sum(one["tokens"] for one in tally.bins()) == tokens


def test_ties_count_as_a_coin_would() -> None:
    tally = counted(torch.zeros(4, 20), torch.arange(4))
    assert tally.figures()["accuracy_top_1"] == pytest.approx(1 / 20)
    assert tally.figures()["accuracy_top_5"] == pytest.approx(5 / 20)


def test_a_model_that_says_what_it_knows_is_calibrated() -> None:
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(20_000, 8, generator=draw) * 2
    targets = torch.multinomial(scores.softmax(-1), 1, generator=draw).squeeze(-1)
    assert counted(scores, targets).calibration_error < 0.02
    assert counted(scores * 4, targets).calibration_error > 0.2


def test_tallies_add_up() -> None:
    draw = torch.Generator().manual_seed(1)
    scores, targets = torch.randn(30, 9, generator=draw), torch.randint(9, (30,), generator=draw)
    whole, parts = counted(scores, targets), Tally()
    for start in range(0, 30, 7):
        some = slice(start, start + 7)
        parts.add(scores[some], targets[some], scores[some].logsumexp(-1))
    parts.add(scores[:0], targets[:0], scores[:0].logsumexp(-1))
    assert parts.figures() == pytest.approx(whole.figures())
