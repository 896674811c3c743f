"""Intervals and differences beside what they must come to."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.config.evaluate import Bootstrap
from codex_ray.errors import ConfigError
from codex_ray.evaluate.intervals import bootstrap, holm, paired
from codex_ray.evaluate.metrics import Array, mean


def rows(scores: object) -> Array:
    values = np.asarray(scores, dtype=float)
    return np.stack([values, np.ones_like(values)], axis=1)


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    scores = np.random.default_rng(0).normal(3.0, 2.0, size=800)
    found = bootstrap(rows(scores), mean, Bootstrap(resamples=4000))
    error = scores.std() / math.sqrt(len(scores))
    assert found.value == pytest.approx(scores.mean())
    assert found.low == pytest.approx(scores.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(scores.mean() + 1.96 * error, abs=0.1 * error)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    draw = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        found = bootstrap(rows(draw.random(60) < 0.3), mean, Bootstrap(resamples=300, confidence=0.9))
        held += found.low <= 0.3 <= found.high
    assert 0.83 <= held / 300 <= 0.95


def test_a_resample_draws_whole_examples() -> None:
    # Of two rows, 2 of 4 and 0 of 1, a resample is both (0.4), the first twice (0.5) or the second twice (0).
    both = np.array([[2.0, 4.0], [0.0, 1.0]])
    found = bootstrap(both, mean, Bootstrap(resamples=2000, confidence=0.9))
    assert (found.value, found.low, found.high) == (0.4, 0.0, 0.5)


def test_the_same_seed_gives_the_same_interval_at_any_size_of_its_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores = rows(np.random.default_rng(2).random(50))
    before = bootstrap(scores, mean, Bootstrap(resamples=300, seed=7))
    monkeypatch.setattr("codex_ray.evaluate.intervals.AT_ONCE", 170)
    assert bootstrap(scores, mean, Bootstrap(resamples=300, seed=7)) == before
    assert bootstrap(scores, mean, Bootstrap(resamples=300, seed=8)) != before


@pytest.mark.parametrize(("score", "low", "high"), [(0, 0.0, 0.2775), (1, 0.7225, 1.0)])
def test_where_all_score_alike_the_interval_is_wilsons(score: int, low: float, high: float) -> None:
    found = bootstrap(rows([score] * 10), mean, Bootstrap())
    assert found.method == "wilson"
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=7))
def test_the_p_value_is_the_share_of_exchanges_that_are_as_far_apart(pairs: list[tuple[int, int]]) -> None:
    first, second = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    found = paired(rows(first), rows(second), mean, Bootstrap(resamples=4000))
    differences = second - first
    observed = abs(differences.mean())
    flips = itertools.product((-1, 1), repeat=len(pairs))
    exact = np.mean([abs((differences * flip).mean()) >= observed - 1e-12 for flip in flips])
    assert found.p_value == pytest.approx(exact, abs=0.04)
    assert found.difference.value == pytest.approx(differences.mean())


def test_the_same_answers_do_not_differ_and_others_do() -> None:
    scores = np.random.default_rng(3).random(200)
    same = paired(rows(scores), rows(scores), mean, Bootstrap())
    assert (same.difference.low, same.difference.high, same.p_value) == (0.0, 0.0, 1.0)
    better = paired(rows(scores), rows(scores + 0.01), mean, Bootstrap())
    assert better.difference.low == pytest.approx(0.01) and better.p_value == pytest.approx(1 / 1001)


def test_under_no_difference_p_values_are_as_small_as_chance_has_it() -> None:
    draw = np.random.default_rng(4)
    small = sum(
        paired(rows(draw.random(30)), rows(draw.random(30)), mean, Bootstrap(resamples=200)).p_value <= 0.1
        for _ in range(200)
    )
    assert 0.04 <= small / 200 <= 0.17


def test_holm_adjusts_step_by_step() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_what_is_no_number_is_refused() -> None:
    for wrong in (np.array([["a", "b"]]), np.array([[math.nan, 1.0]]), np.array([[None, 1]])):
        with pytest.raises(ConfigError, match="must be finite numbers"):
            bootstrap(wrong, mean, Bootstrap())
    with pytest.raises(ConfigError, match="no examples"):
        bootstrap(np.zeros((0, 2)), mean, Bootstrap())
    with pytest.raises(ConfigError, match="2 and 3 examples cannot be compared"):
        paired(rows([1, 2]), rows([1, 2, 3]), mean, Bootstrap())
