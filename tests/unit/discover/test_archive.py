"""The archive: a worked tree, blocked lineages, counting, capacity, and its file."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.discover.archive import Archive, Child
from codex_ray.errors import CodexRayError

A, B, C, D = 0, 1, 2, 3


def tree(**options: Any) -> Archive:
    archive = Archive(**options)
    archive.seed(0.0, "A")
    archive.expanded(A, [Child(1.0, "B"), Child(0.6, "C")], 4)
    archive.expanded(B, [Child(1.2, "D")], 4)
    return archive


def test_the_worked_tree() -> None:
    archive = tree()
    states = archive.states
    assert archive.expansions == 2 and [states[s].visits for s in (A, B, C, D)] == [2, 1, 0, 0]
    assert states[A].best_child == 1.0 and states[B].best_child == 1.2 and states[C].best_child is None
    assert archive.priors() == pytest.approx({D: 0.4, B: 0.3, C: 0.2, A: 0.1})
    assert archive.scores() == pytest.approx({D: 2.031384, B: 1.511769, A: 1.069282, C: 1.015692}, abs=1e-6)
    others = tree(scale_over="children").scores()
    assert others == pytest.approx({D: 1.615692, B: 1.355885, A: 1.034641, C: 0.807846}, abs=1e-6)
    assert archive.select(1) == [D] and archive.select(2) == [D, C] and archive.select(9) == [D, C]
    assert archive.best().key == "D"


def test_an_expansion_that_fails_counts() -> None:
    archive = tree()
    assert archive.expanded(D, [], 4) == []
    assert archive.expansions == 3 and [archive.states[s].visits for s in (A, B, C, D)] == [3, 2, 0, 1]
    assert archive.states[D].best_child is None and archive.states[B].best_child == 1.2
    per_rollout = tree(count_rollouts=True)
    assert per_rollout.expansions == 8 and per_rollout.states[A].visits == 8


def test_duplicates_are_known_and_the_best_two_stay() -> None:
    archive = tree()
    added = archive.expanded(C, [Child(0.1, "x"), Child(9.0, "D"), Child(0.3, "y"), Child(0.2, "z")], 4)
    assert [state.key for state in added] == ["y", "z"]
    assert archive.states[C].best_child == 9.0  # the value was reached, whoever had it before
    assert archive.expanded(C, [Child(0.9, "w"), Child(0.9, "w")], 4)[0].key == "w"
    assert sum(state.key == "w" for state in archive.states.values()) == 1


def test_seeds_survive_and_lineages_outlive_their_states() -> None:
    archive = tree(capacity=1)
    assert sorted(state.key for state in archive.states.values()) == ["A", "D"]
    assert archive.ancestors(D) == [B, A]
    archive.expanded(D, [Child(0.5, "E")], 4)
    assert archive.states[A].visits == 3 and archive.select(2) == [D]
    assert sorted(state.key for state in archive.states.values()) == ["A", "D"]


def test_its_file_goes_on_where_it_was() -> None:
    archive = tree(problem="erdos", capacity=3)
    again = Archive.from_json(json.loads(json.dumps(archive.to_json())), "erdos")
    for each in (archive, again):
        each.expanded(D, [Child(1.5, "E", [1, 2])], 4)
    assert again == archive and again.select(3) == archive.select(3)
    for held, problem in (
        (archive.to_json(), "circles"),
        (archive.to_json() | {"format": 9}, "erdos"),
        ({}, "x"),
    ):
        with pytest.raises(CodexRayError, match="begin anew"):
            Archive.from_json(held, problem)


def test_values_that_are_no_numbers_and_empty_archives_are_refused() -> None:
    with pytest.raises(CodexRayError, match="must refuse"):
        Archive().seed(float("nan"), "A")
    with pytest.raises(CodexRayError, match="no state"):
        Archive().best()
    assert Archive().select(3) == []


EXPANSIONS = st.lists(
    st.tuples(st.integers(0, 30), st.lists(st.tuples(st.floats(-3, 3), st.integers(0, 12)), max_size=4)),
    max_size=15,
)


@settings(max_examples=60, deadline=None)
@given(EXPANSIONS, st.integers(1, 8), st.integers(1, 5))
def test_whatever_is_expanded(expansions: list[Any], capacity: int, count: int) -> None:
    archive = Archive(capacity=capacity)
    archive.seed(0.0, "seed 0")
    archive.seed(-1.0, "seed 1")
    for place, children in expansions:
        number = list(archive.states)[place % len(archive.states)]
        archive.expanded(number, [Child(value, str(key)) for value, key in children], 8)
    assert archive.expansions == len(expansions)
    assert sum(archive.priors().values()) == pytest.approx(1.0)
    keys = [state.key for state in archive.states.values()]
    assert len(set(keys)) == len(keys) and {"seed 0", "seed 1"} <= set(keys)
    assert len(archive.states) <= capacity + 2
    for state in archive.states.values():
        below = [other.visits for other in archive.states.values() if other.parent == state.number]
        assert state.visits >= sum(below)
    chosen = archive.select(count)
    assert 1 <= len(chosen) <= count
    for number in chosen:
        assert not set(archive.ancestors(number)) & set(chosen)


def test_greed_goes_by_value_and_chance_by_neither() -> None:
    archive, draw = tree(), np.random.default_rng(1)
    assert archive.select_greedily(2, 0.0, draw) == [D, C]
    firsts = {archive.select_greedily(1, 1.0, draw)[0] for _ in range(50)}
    assert firsts == {A, B, C, D}
    assert all(len(archive.select_greedily(4, 0.5, draw)) <= 2 for _ in range(20))


def test_a_parent_that_others_pushed_out_meanwhile_still_has_its_children() -> None:
    archive = Archive(capacity=2)
    archive.seed(0.0, "A")
    archive.expanded(A, [Child(0.1, "B"), Child(0.2, "C")], 2)
    archive.expanded(A, [Child(0.5, "D"), Child(0.6, "E")], 2)
    assert B not in archive.states
    added = archive.expanded(B, [Child(0.9, "F")], 2)
    assert [state.parent for state in added] == [B] and archive.best().key == "F"
