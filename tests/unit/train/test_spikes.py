"""What counts as a spike, and which batches remain when some are left out."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from codex_ray.train.spikes import FEWEST, after_rollback, batch_index, is_spike, stretches

SKIPS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=5)


@given(first=st.integers(0, 50), steps=st.integers(0, 40), skips=SKIPS)
def test_stretches_are_the_batches_one_by_one(first: int, steps: int, skips: list[tuple[int, int]]) -> None:
    found = [
        index for begin, count in stretches(first, steps, skips) for index in range(begin, begin + count)
    ]
    assert found == [batch_index(step, skips) for step in range(first, first + steps)]


@given(skips=SKIPS)
def test_no_batch_is_taken_twice_and_those_left_out_are_not_taken(skips: list[tuple[int, int]]) -> None:
    taken = [batch_index(step, skips) for step in range(80)]
    assert len(set(taken)) == len(taken) and taken == sorted(taken)
    assert taken[79] - 79 == sum(batches for _, batches in skips)


@given(
    skips=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=4),
    back=st.integers(0, 40),
    further=st.integers(1, 30),
)
def test_after_going_back_training_goes_on_behind_the_batch_that_jumped(
    skips: list[tuple[int, int]], back: int, further: int
) -> None:
    spike = back + further
    again = after_rollback(skips, back, spike)
    assert batch_index(back, again) == batch_index(spike - 1, skips) + 1
    before = [batch_index(step, skips) for step in range(back)]
    assert [batch_index(step, again) for step in range(back)] == before


def test_a_spike_stands_out_of_enough_losses() -> None:
    usual = [2.0, 2.2, 1.8] * 5
    assert is_spike(4.5, usual, 2.0) and not is_spike(3.9, usual, 2.0)
    assert not is_spike(100.0, usual[: FEWEST - 1], 2.0)
    assert not is_spike(100.0, usual, 0.0)
    assert not is_spike(math.nan, usual, 2.0)
