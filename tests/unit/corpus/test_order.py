from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.corpus.order import Order

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "order.json").read_text())
HUGE = 10**12 // 256 + 17  # rows of 256 tokens, with a ragged last group


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 700),
    group=st.integers(1, 64),
    window=st.integers(1, 12),
    seed=st.integers(0, 2**70),
    epoch=st.integers(0, 10**6),
)
def test_every_row_once_per_epoch(rows: int, group: int, window: int, seed: int, epoch: int) -> None:
    order = Order(rows, group, window, seed)
    assert sorted(order.rows(epoch * rows, (epoch + 1) * rows)) == list(range(rows))


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 500),
    group=st.integers(1, 40),
    window=st.integers(1, 8),
    start=st.integers(0, 2000),
    length=st.integers(0, 30),
)
def test_any_range_equals_its_positions_one_by_one(
    rows: int, group: int, window: int, start: int, length: int
) -> None:
    order = Order(rows, group, window, seed=5)
    single = [int(order.rows(position, position + 1)[0]) for position in range(start, start + length)]
    assert order.rows(start, start + length).tolist() == single


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(2, 2000), group=st.integers(1, 50), window=st.integers(1, 8), seed=st.integers(0, 99))
def test_a_window_reads_only_its_own_groups(rows: int, group: int, window: int, seed: int) -> None:
    order = Order(rows, group, window, seed)
    groups = order.rows(0, rows) // group
    changes = 0
    held: set[int] = set()
    for row_group in groups.tolist():
        if row_group not in held:
            changes += 1
            if len(held) == window:
                held = set()  # a reader that keeps one window needs no group of an earlier one again
            held.add(row_group)
    assert changes == -(-rows // group)


def test_golden_values() -> None:
    for case in GOLDEN:
        order = Order(case["rows"], case["row_group_rows"], case["window_row_groups"], case["seed"])
        start = case["start"]
        assert order.rows(start, start + len(case["row_ids"])).tolist() == case["row_ids"], case


def test_epochs_and_seeds_differ() -> None:
    order = Order(1000, 16, 8, seed=1)
    first, second = order.rows(0, 1000), order.rows(1000, 2000)
    other = Order(1000, 16, 8, seed=2).rows(0, 1000)
    for a, b in ((first, second), (first, other), (second, other)):
        assert (a == b).mean() < 0.02


@pytest.mark.parametrize(("rows", "group", "window"), [(20_000, 16, 4), (20_011, 16, 8), (4096, 256, 16)])
def test_order_has_no_visible_structure(rows: int, group: int, window: int) -> None:
    """Chance alone: neighbours, ranks within windows and the place of a given row over many seeds."""
    order = Order(rows, group, window, seed=3)
    ids = order.rows(0, rows)
    span = group * window
    assert (np.diff(ids) == 1).mean() < 3 / span  # chance: about 1/span
    whole = ids[: rows // span * span].reshape(-1, span)
    inner = np.argsort(np.argsort(whole, axis=1), axis=1)
    lag = np.corrcoef(inner[:, :-1].ravel(), inner[:, 1:].ravel())[0, 1]
    assert abs(lag) < 4 / np.sqrt(inner.size) + 2 / span
    # Halves of a window must mix: each source half sends half its rows to the first half.
    first_half = (inner[:, : span // 2] < span // 2).mean()
    assert abs(first_half - 0.5) < 4 * 0.5 / np.sqrt(inner.size / 2)


def test_the_first_row_is_uniform_over_seeds() -> None:
    rows, draws = 24, 1200
    counts = np.bincount([Order(rows, 4, 3, seed).rows(0, 1)[0] for seed in range(draws)], minlength=rows)
    expected = draws / rows
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert chi_squared < 60  # 23 degrees of freedom: beyond 60 has a chance of 4e-5


@pytest.mark.parametrize("size", [2, 3, 4])
def test_small_windows_take_every_arrangement(size: int) -> None:
    epochs = Order(size, size, 1, seed=1).rows(0, 1000 * size).reshape(1000, size)
    seen, counts = np.unique(epochs, axis=0, return_counts=True)
    assert len(seen) == np.prod(np.arange(1, size + 1))
    assert counts.min() > 0.5 * counts.mean()


def test_seeking_costs_the_same_anywhere_in_a_huge_corpus() -> None:
    small, huge = Order(50_000, 256, 256, seed=1), Order(HUGE, 256, 256, seed=1)

    def cost(order: Order, start: int) -> float:
        times = []
        for _ in range(7):
            began = time.perf_counter()
            order.rows(start, start + 4096)
            times.append(time.perf_counter() - began)
        return min(times)

    base = cost(small, 0)
    for start in (0, HUGE // 2, HUGE - 2048, 1000 * HUGE):
        assert cost(huge, start) < 8 * base + 0.005


def test_huge_positions_are_rows() -> None:
    order = Order(HUGE, 256, 256, seed=9)
    for start in (0, HUGE - 500, 2**52):
        ids = order.rows(start, start + 1000)
        assert ids.dtype == np.int64
        assert ids.min() >= 0
        assert ids.max() < HUGE
    ids = order.rows(10 * HUGE, 10 * HUGE + 4096)
    assert len(set(ids.tolist())) == 4096


@pytest.mark.parametrize("bad", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_empty_shapes_are_refused(bad: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        Order(*bad, seed=1)
