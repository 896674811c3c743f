"""Verifiers: known values, what changes nothing, and what is no solution."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from codex_ray.discover.problems import autocorrelation, circles, erdos, labs

NOT_NUMBERS: list[Any] = [
    None, "0.5", 0.5, {}, [], [float("nan"), 0.5], [float("inf")], [True, False], ["a"], [None], [[0.5]],
    [10**400],
]  # fmt: skip


@pytest.mark.parametrize(
    ("h", "c5"),
    [
        ([0.5], 0.5),
        ([0.5] * 7, 0.5),
        ([0, 1, 1, 0], 0.5),
        ([1, 1, 0, 0], 1.0),
        ([1, 0, 1, 0], 1.0),
        ([0.5 + 1 / math.sqrt(40), 0.5 - 2 / math.sqrt(40), 0.5 + 1 / math.sqrt(40)], 0.4),
    ],
)
def test_minimum_overlap(h: list[float], c5: float) -> None:
    assert erdos.bound(h) == pytest.approx(c5, abs=1e-15)
    found = erdos.verify(h)
    assert found.valid and found.figure == pytest.approx(c5, abs=1e-11)
    assert found.value == -found.figure and found.reward == 1 / found.figure
    exact = erdos.exact_bound(erdos.rational(h))
    assert float(exact) == pytest.approx(c5, abs=1e-11)


def test_minimum_overlap_in_exact_arithmetic() -> None:
    assert erdos.exact_bound([Fraction(0), Fraction(1), Fraction(1), Fraction(0)]) == Fraction(1, 2)
    assert erdos.exact_bound([Fraction(1, 3), Fraction(1, 2), Fraction(2, 3)]) == Fraction(25, 54)
    for wrong in ([Fraction(1, 3)], [Fraction(3, 2), Fraction(-1, 2)], []):
        with pytest.raises(ValueError, match="half their number"):
            erdos.exact_bound(wrong)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=2, max_size=12), st.integers(1, 4))
def test_minimum_overlap_is_the_same_in_both_arithmetics(whole: list[int], times: int) -> None:
    pairs = [step for step in whole for step in (step, 20 - step)]  # whose sum is half their number
    h = [step / 20 for step in pairs]
    exact = erdos.exact_bound([Fraction(step, 20) for step in pairs])
    assert erdos.bound(h) == pytest.approx(float(exact), abs=1e-12)
    assert erdos.bound(h[::-1]) == pytest.approx(float(exact), abs=1e-12)
    assert erdos.bound([step for step in h for _ in range(times)]) == pytest.approx(float(exact), abs=1e-12)
    assert sum(erdos.rational(h)) * 2 == len(h)
    # The lattice's maximum is that of all shifts: a finer lattice finds no more.
    fine = np.repeat(h, 8)
    assert erdos.bound(fine.tolist()) == pytest.approx(float(exact), abs=1e-12)


def test_a_claimed_bound_is_not_even_read() -> None:
    """The authors' grader takes a claim within 1e-4 as the value."""
    assert not erdos.verify(([0.5, 0.5], 0.4998951, 2)).valid
    assert erdos.verify([0.5, 0.5]).figure == 0.5
    grid = [[(i + 0.5) / 2, (j + 0.5) / 2] for i in range(2) for j in range(2)]
    honest, claimed = circles.verify([grid, [0.25] * 4], 4), circles.verify([grid, [0.25] * 4, 1.5], 4)
    assert honest == claimed and honest.reward == 1.0


@pytest.mark.parametrize("wrong", [*NOT_NUMBERS, [0.4, 0.5], [1.2, -0.2], [0.5] * 1001, [0.5, 0.5 + 1e-7]])
def test_what_is_no_step_function(wrong: Any) -> None:
    found = erdos.verify(wrong)
    assert not found.valid and found.reward == 0.0 and found.value == -math.inf and found.reason


@pytest.mark.parametrize(
    ("f", "first", "second"),
    [
        ([1.0], 2.0, 2 / 3),
        ([0.7] * 9, 2.0, 2 / 3),
        ([1.0, 0.0], 4.0, 2 / 3),
        ([2.0, 1.0], 16 / 9, 0.796296),
        ([1.0, 2.0, 1.0], 9 / 4, 0.680556),
        ([1.0, 0.0, 1.0], 3.0, 0.5),
    ],
)
def test_autocorrelation(f: list[float], first: float, second: float) -> None:
    assert autocorrelation.first_bound(f) == pytest.approx(first, abs=1e-12)
    assert autocorrelation.second_bound(f) == pytest.approx(second, abs=1e-6)
    exact = autocorrelation.exact_first_bound([Fraction(step) for step in f])
    assert float(exact) == pytest.approx(first, abs=1e-12)
    one, two = autocorrelation.verify_first(f), autocorrelation.verify_second(f)
    assert (one.value, one.reward) == (-one.figure, 1 / one.figure) and one.figure == pytest.approx(first)
    assert two.value == two.reward == two.figure == pytest.approx(second, abs=1e-6)


def test_long_autocorrelations_are_the_same_by_transform() -> None:
    steps = np.random.default_rng(0).uniform(size=5000)
    direct = np.convolve(steps, steps)
    assert autocorrelation.first_bound(steps.tolist()) == pytest.approx(
        2 * 5000 * direct.max() / steps.sum() ** 2, rel=1e-12
    )
    seeds = [0.3] * 6000
    assert autocorrelation.first_bound(seeds) == pytest.approx(2.0, rel=1e-12)
    assert autocorrelation.second_bound(seeds) == pytest.approx(2 / 3, rel=1e-9)


@given(st.lists(st.floats(0.01, 5), min_size=1, max_size=10), st.floats(0.1, 10), st.integers(1, 3))
def test_autocorrelation_has_no_unit(f: list[float], unit: float, times: int) -> None:
    for bound in (autocorrelation.first_bound, autocorrelation.second_bound):
        value = bound(f)
        assert bound([unit * step for step in f]) == pytest.approx(value, rel=1e-9)
        assert bound(f[::-1]) == pytest.approx(value, rel=1e-9)
        assert bound([step for step in f for _ in range(times)]) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("wrong", [*NOT_NUMBERS, [0.0, 0.0], [1.0, -0.5], [0.001] * 3])
def test_what_has_no_autocorrelation(wrong: Any) -> None:
    for verify in (autocorrelation.verify_first, autocorrelation.verify_second):
        found = verify(wrong)
        assert not found.valid and found.reward == 0.0 and found.reason


def grid(side: int, count: int) -> list[Any]:
    places = [[(i + 0.5) / side, (j + 0.5) / side] for i in range(side) for j in range(side)]
    return [places[:count], [1 / (2 * side)] * count]


def test_circles_in_a_grid() -> None:
    five = grid(5, 25)
    five = [[*five[0], [0.2, 0.2]], [*five[1], (math.sqrt(2) - 1) / 10]]
    assert circles.verify(five, 26, 1e-12).reward == pytest.approx(2.5 + (math.sqrt(2) - 1) / 10, abs=1e-12)
    assert circles.verify(grid(6, 32), 32, 1e-12).reward == pytest.approx(8 / 3, abs=1e-12)
    exact = [[[0.25, 0.25], [0.75, 0.25]], [0.25, 0.25]]
    assert circles.verify(exact, 2).reward == 0.5 and circles.slack(*exact) == 0


def test_a_hair_is_too_much_without_tolerance() -> None:
    touching = [[[0.25, 0.25], [0.75, 0.25]], [0.25, math.nextafter(0.25, 1)]]
    assert not circles.verify(touching, 2).valid and circles.verify(touching, 2, 1e-12).valid
    apart = [[[0.25, 0.25], [0.75, 0.25]], [0.25, math.nextafter(0.25, 0)]]
    assert circles.verify(apart, 2).valid


@pytest.mark.parametrize(
    "wrong",
    [
        *NOT_NUMBERS,
        [[[0.5, 0.5]], [0.1]],
        [[[0.3, 0.5], [0.5, 0.5]], [0.2, 0.1]],
        [[[0.1, 0.5], [0.5, 0.5]], [0.2, 0.1]],
        [[[0.3, 0.5], [0.7, 0.5]], [-0.1, 0.1]],
        [[[0.3, 0.5], [0.7, float("nan")]], [0.1, 0.1]],
        [[[0.3, 0.5], [0.7]], [0.1, 0.1]],
        [[[0.3, 0.5], [0.7, 0.5]], [True, 0.1]],
        [[[0.3, 0.5], [0.7, 0.5]], [0.1]],
        [7, [0.1, 0.1]],
    ],
)
def test_what_is_no_packing(wrong: Any) -> None:
    for tolerance in (0.0, 1e-12):
        found = circles.verify(wrong, 2, tolerance)
        assert not found.valid and found.reward == 0.0 and found.reason


def test_merit_factors() -> None:
    barker = [1, 1, 1, 1, 1, -1, -1, 1, 1, -1, 1, -1, 1]
    assert labs.merit_factor(barker) == Fraction(169, 12)  # the highest known
    assert labs.verify(barker, 13).value == pytest.approx(14.0833333)
    assert labs.verify([-sign for sign in barker[::-1]], 13) == labs.verify(barker, 13)
    for wrong in (barker[:-1], [0] * 13, [1.5] * 13, [True] * 13):
        assert not labs.verify(wrong, 13).valid


def test_a_direct_optimiser_finds_what_is_known_of_eight_steps() -> None:
    """Sequential quadratic programming on the same bound: 0.385072 with eight steps."""
    generator, best = np.random.default_rng(0), 1.0
    for _ in range(12):
        start = np.append(0.5 + generator.uniform(-0.4, 0.4, 8), 0.6)
        found = minimize(
            lambda x: x[-1],
            start,
            method="SLSQP",
            bounds=[(0, 1)] * 9,
            constraints=[
                {"type": "ineq", "fun": lambda x: x[-1] - np.correlate(x[:-1], 1 - x[:-1], "full") / 4},
                {"type": "eq", "fun": lambda x: x[:-1].sum() - 4},
            ],
        )
        graded = erdos.verify(np.clip(found.x[:-1], 0, 1).tolist())
        if graded.figure is not None:
            best = min(best, graded.figure)
    assert best == pytest.approx(0.385072, abs=1e-6)
