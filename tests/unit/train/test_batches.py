"""Batches and sequences that grow: every row once, wherever a run is cut, however many workers share it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.config.compose import compose
from codex_ray.config.train import Training
from codex_ray.corpus.direct import Share
from codex_ray.errors import ConfigError
from codex_ray.train.batches import Batches, Ramp

STAGES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 7)), max_size=4).map(tuple)
SKIPS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 5)), max_size=3)


@given(stages=STAGES, last=st.integers(1, 9), batches=st.integers(0, 40), total=st.floats(0, 300))
def test_a_ramp_is_the_sum_of_its_values(
    stages: tuple[tuple[int, int], ...], last: int, batches: int, total: float
) -> None:
    ramp = Ramp(stages, last)
    plain = [value for value, count in stages for _ in range(count)] + [last] * 400
    assert [ramp.at(batch) for batch in range(batches)] == plain[:batches]
    assert ramp.total(batches) == sum(plain[:batches])
    reached = ramp.reach(total)
    assert sum(plain[:reached]) >= total and (reached == 0 or sum(plain[: reached - 1]) < total)


def positions(batches: Batches, first: int, steps: int, workers: int) -> list[list[int]]:
    """The rows of each step as the streams of all ranks give them, in pieces as the source opens them."""
    found = []
    for batch, count in batches.stretches(first, steps):
        rows = batches.rows.at(batch)
        shift = batches.rows.total(batch) - batch * rows
        shares = [Share(Path(), "train", "", 0, rows, rank, workers, shift) for rank in range(workers)]
        for number in range(batch, batch + count):
            found.append(list(np.concatenate([share.positions(number, number + 1) for share in shares])))
    return found


@settings(deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 7)), max_size=4),
    lengths=st.lists(st.tuples(st.sampled_from([2, 4, 8]), st.integers(1, 9)), max_size=3),
    last=st.integers(1, 5),
    skips=SKIPS,
    steps=st.integers(1, 40),
    cuts=st.lists(st.tuples(st.integers(0, 40), st.sampled_from([1, 2, 3, 4, 6])), max_size=4),
)
def test_every_row_is_taken_once_at_any_number_of_workers_and_from_any_step(
    sizes: list[tuple[int, int]],
    lengths: list[tuple[int, int]],
    last: int,
    skips: list[tuple[int, int]],
    steps: int,
    cuts: list[tuple[int, int]],
) -> None:
    def of(workers: int) -> Batches:
        training = Training(
            batch_tokens=last * 12 * 8,
            batch_ramp=[[size * 12 * 8, count] for size, count in sizes],
            sequence_ramp=[[length, count] for length, count in lengths],
        )
        return Batches.of(training, 8, workers, skips=skips)

    whole = positions(of(1), 0, steps, 1)
    assert len(whole) == steps
    taken = [position for step in whole for position in step]
    assert taken == sorted(set(taken))
    if not skips:
        assert taken == list(range(len(taken)))
    assert of(1).trained_rows(steps) == len(taken)
    assert [step[0] for step in whole] == [of(1).row(step) for step in range(steps)]
    parts, begin = [], 0
    for cut, workers in sorted(cuts):
        if begin < cut <= steps:
            parts += positions(of(workers), begin, cut - begin, workers)
            begin = cut
    assert parts + positions(of(2), begin, steps - begin, 2) == whole


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    workers=st.integers(1, 4),
)
def test_micro_batches_fit_batches_of_all_sizes(sizes: list[int], workers: int) -> None:
    tokens = [size * workers * 8 for size in sizes]
    training = Training(batch_tokens=tokens[-1], batch_ramp=[[each, 3] for each in tokens[:-1]])
    plan = Batches.of(training, 8, workers).plan
    assert 1 <= plan.micro_rows <= 16
    assert all(size % plan.micro_rows == 0 for size in sizes)


@pytest.mark.parametrize(
    ("training", "sentence"),
    [
        (
            Training(batch_ramp=[[100, 3]]),
            "train.batch_ramp[0][0]=100 cannot be divided into rows of 32 tokens",
        ),
        (Training(sequence_ramp=[[12, 3]]), "rows of 32 cannot be cut into such; give 8"),
    ],
)
def test_ramps_that_cannot_be_are_refused_with_numbers_that_can(training: Training, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Batches.of(training, 32, 2)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train.batch_ramp=[[512]]"], "train.batch_ramp holds [512], which is no pair [tokens, batches]"),
        (["train.sequence_ramp=[[1,5]]"], "from 2 and 1 up"),
        (
            ["train.batch_ramp=[[512,3]]", "train.seconds=9", "schedule=wsd"],
            "give train.steps or train.epochs",
        ),
    ],
)
def test_pairs_are_checked_before_a_corpus_is_known(words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose("pretrain", words)
    assert sentence in str(caught.value)


def test_pairs_are_given_on_the_command_line() -> None:
    settings = compose("pretrain", ["train.batch_ramp=[[512,3],[1024,5]]"])
    assert settings.train.batch_ramp == [[512, 3], [1024, 5]]
