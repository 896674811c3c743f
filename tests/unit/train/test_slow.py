"""Ranks that are slower than the others."""

from __future__ import annotations

import pytest

from codex_ray.train.display import slow_sentence
from codex_ray.train.slow import WINDOW, Slow, SlowRanks


def found(watch: SlowRanks, steps: list[list[float]]) -> list[Slow]:
    return [slow for step in steps for slow in watch.look(step)]


@pytest.mark.parametrize("ranks", [[1.0, 2.0], [1.0, 1.1, 2.0], [1.0, 1.0, 1.2, 2.0]])
def test_a_slow_rank_is_found_once_and_again_after_it_was_fast(ranks: list[float]) -> None:
    watch = SlowRanks(1.5)
    assert [slow.rank for slow in found(watch, [ranks] * 5 * WINDOW)] == [len(ranks) - 1]
    assert found(watch, [[1.0] * len(ranks)] * WINDOW) == []
    assert [slow.rank for slow in found(watch, [ranks] * WINDOW)] == [len(ranks) - 1]


def test_single_slow_steps_and_equal_ranks_are_no_matter() -> None:
    hiccups = [[1.0, 90.0 if step % 3 == 0 else 1.0, 1.2] for step in range(6 * WINDOW)]
    assert found(SlowRanks(1.5), hiccups) == []
    assert found(SlowRanks(1.5), [[1.0]] * 3 * WINDOW) == []
    assert found(SlowRanks(0.0), [[1.0, 9.0]] * 3 * WINDOW) == []
    assert found(SlowRanks(1.5), [[0.0, 0.0]] * 3 * WINDOW) == []


def test_the_sentence_names_rank_node_and_figures() -> None:
    message = {"rank": 3, "seconds": 0.25, "median": 0.1, "step": 60}
    sentence = slow_sentence(message, "10.0.0.7")
    assert sentence.startswith("rank 3 on 10.0.0.7 is slow: until step 60")
    assert "0.25 s a step, 2.5 times" in sentence and "\n" not in sentence
