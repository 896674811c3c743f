"""Checkpoint intervals and goodput, beside numbers worked out by hand and a numeric minimum."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_ray.plan.reliability import daly_interval, goodput, young_interval

HOUR = 3600.0


def test_young_by_hand() -> None:
    assert young_interval(60.0, 30 * HOUR) == pytest.approx(3600.0)  # sqrt(2 * 60 * 108,000)


def test_daly_by_hand() -> None:
    """sqrt(2 * 50 * 10,000) = 1,000; d / 2M = 0.0025, so 1,000 (1 + 0.05 / 3 + 0.0025 / 9) - 50."""
    assert daly_interval(50.0, 10_000.0) == pytest.approx(966.944, abs=1e-3)
    assert daly_interval(2_000.0, 1_000.0) == 1_000.0


def test_goodput_by_hand() -> None:
    """M e^(R/M) (e^((t+d)/M) - 1) with M = 1,000, R = 100, t = 90, d = 10."""
    expected = 1000 * math.exp(0.1) * (math.exp(0.1) - 1)
    assert goodput(90.0, 10.0, 1000.0, 100.0) == pytest.approx(90.0 / expected)
    assert goodput(1e9, 1.0, 1.0, 1.0) == 0.0


@given(st.floats(1e-3, 1e4), st.floats(1e-2, 1e3), st.floats(1e3, 1e8), st.floats(0, 1e4))
def test_goodput_is_a_share_and_falls_with_every_cost(
    interval: float, write: float, between: float, recovery: float
) -> None:
    found = goodput(interval, write, between, recovery)
    assert 0 < found <= 1
    assert goodput(interval, 2 * write, between, recovery) <= found
    assert goodput(interval, write, between, recovery + 60) <= found
    assert goodput(interval, write, 2 * between, recovery) >= found


@given(st.floats(0.1, 500.0), st.floats(5e3, 1e8))
def test_dalys_interval_wastes_as_little_as_any(write: float, between: float) -> None:
    best = daly_interval(write, between)
    reached = goodput(best, write, between, 300.0)
    others = (goodput(best * 1.01**power, write, between, 300.0) for power in range(-200, 201))
    assert max(others) <= reached * 1.002
