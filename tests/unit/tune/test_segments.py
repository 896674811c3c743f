"""In which order a population's segments are trained, with trials whose outcomes are made up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from codex_ray.config.sweep import Sweep
from codex_ray.tune import population
from codex_ray.tune.records import COMPLETED, STOPPED, Records
from codex_ray.tune.segments import Segments
from codex_ray.tune.space import Space
from tests.unit.tune.sweeps import a_sweep

RATE = "optimizer.learning_rate"


@dataclass
class Shown:
    """What is asked of the sweep's watch."""

    over: bool = False

    def note(self, text: str) -> None:
        pass


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Exchanges that were made, by step and taker; no checkpoints are there to be handed over."""
    made: list[tuple[int, int]] = []

    def apply(sweep: Sweep, records: Records, one: Any, step: int, own: dict[str, Any]) -> None:
        made.append((step, one.taker))
        records.take_over(one.taker, one.giver, one.values, step)

    monkeypatch.setattr(population, "apply", apply)
    return made


def a_population(folder: Path) -> tuple[Sweep, Records]:
    run = {"train.steps": 8, "validation.every": 4}
    sweep = a_sweep({RATE: [1e-3, 2e-3, 4e-3, 8e-3]}, run, search="grid", scheduler="pbt", segment_steps=4)
    return sweep, Records(folder, sweep.sweep)


def segments_of(sweep: Sweep, records: Records, watch: Any, signals: list[int]) -> Segments:
    space = Space(sweep)
    planned = space.trials()
    assert planned is not None
    return Segments(sweep, space, records, planned, {}, watch, signals)


def train(records: Records, told: dict[str, Any], loss: float) -> None:
    number, step = told["number"], told["own"]["train.stop_after"]
    records.begin(number, told["values"])
    records.result(number, {"step": step, "tokens": step, "validation_loss": loss})
    records.end(number, COMPLETED if step == 8 else STOPPED)


def ask(segments: Segments, trial: str) -> Any:
    told = segments.suggest(trial)
    return told["trial"] if isinstance(told, dict) else told


def test_a_segment_begins_when_all_have_ended_the_one_before(
    tmp_path: Path, handed: list[tuple[int, int]]
) -> None:
    sweep, records = a_population(tmp_path)
    segments = segments_of(sweep, records, Shown(), [])
    first = [ask(segments, str(number)) for number in range(4)]
    assert [one["number"] for one in first] == [0, 1, 2, 3] and ask(segments, "4") is None
    assert {one["own"]["train.stop_after"] for one in first} == {4}
    for one in first:
        assert ask(segments, "4") is None
        train(records, one, loss=2.0 + one["number"])
        segments.on_trial_complete(str(one["number"]))
    assert not handed
    second = [ask(segments, f"{number}b") for number in range(4)]
    assert handed == [(4, 3)]  # the worst of four takes over
    (taker,) = [one for one in second if one["number"] == 3]
    assert taker["values"] == {trial.number: trial for trial in records}[3].values
    for one in second:
        train(records, one, loss=1.0)
        segments.on_trial_complete(f"{one['number']}b")
    assert ask(segments, "8") == Searcher.FINISHED and len(handed) == 1


def test_what_an_earlier_start_did_is_not_done_again(tmp_path: Path, handed: list[tuple[int, int]]) -> None:
    sweep, records = a_population(tmp_path)
    told = {"values": {RATE: 1e-3}, "own": {"train.stop_after": 4}}
    for number in range(4):
        train(records, told | {"number": number}, loss=2.0 + number)
    train(records, {"number": 0, "values": {RATE: 1e-3}, "own": {"train.stop_after": 8}}, loss=1.0)
    segments = segments_of(sweep, records, Shown(), [])
    assert [ask(segments, str(place))["number"] for place in range(3)] == [1, 2, 3]
    assert not handed and ask(segments, "3") is None


@pytest.mark.parametrize("how", ["signal", "limit"])
def test_nothing_is_exchanged_where_the_sweep_was_stopped(
    how: str, tmp_path: Path, handed: list[tuple[int, int]]
) -> None:
    sweep, records = a_population(tmp_path)
    watch, signals = Shown(), list[int]()
    segments = segments_of(sweep, records, watch, signals)
    for number in range(4):
        train(records, ask(segments, str(number)), loss=2.0 + number)
        segments.on_trial_complete(str(number))
    watch.over, signals[:] = (True, []) if how == "limit" else (False, [15])
    assert ask(segments, "4") == Searcher.FINISHED and not handed
