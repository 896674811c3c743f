"""Optuna's search and Ray Tune's schedulers as a sweep sets them up, without any trial run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from codex_ray.config.sweep import Sweep
from codex_ray.tune.records import COMPLETED, GIVEN_UP, Records
from codex_ray.tune.search import ParzenSearch, _Past, make_scheduler, remember
from codex_ray.tune.space import Space
from tests.unit.tune.sweeps import a_sweep

RATE = "optimizer.learning_rate"


def searched(sweep: Sweep, records: Records, loss: Any) -> list[dict[str, Any]]:
    """Run a search to its end on a function of the values; returns the values in order."""
    search = ParzenSearch(Space(sweep), sweep.sweep, records)
    found = []
    while isinstance(told := search.suggest(f"t{len(found)}"), dict):
        found.append(told["trial"])
        result = {"validation_loss": loss(found[-1]["values"]), "tokens": 80, "state": COMPLETED}
        search.on_trial_complete(f"t{len(found) - 1}", result)
    return found


def test_it_comes_nearer_to_the_best_and_keeps_constraints(tmp_path: Path) -> None:
    sweep = a_sweep({RATE: {"uniform": [0.0, 1.0]}}, trials=40, search="tpe", constraints=[f"{RATE} < 0.9"])
    found = searched(sweep, Records(tmp_path, sweep.sweep), lambda values: abs(values[RATE] - 0.7))
    rates = [trial["values"][RATE] for trial in found]
    assert [trial["number"] for trial in found] == list(range(40)) and max(rates) < 0.9
    distances = [abs(rate - 0.7) for rate in rates]
    assert sum(distances[20:]) < 0.7 * sum(distances[:20])


def test_a_continued_search_first_gives_what_had_not_ended_and_knows_what_had(tmp_path: Path) -> None:
    sweep = a_sweep({RATE: {"uniform": [0.0, 1.0]}}, trials=6, search="tpe")
    records = Records(tmp_path, sweep.sweep)
    for number, rate in enumerate((0.1, 0.7, 0.3)):
        records.begin(number, {RATE: rate})
        records.result(number, {"step": 1, "tokens": 1, "validation_loss": abs(rate - 0.7)})
    for number in (0, 1):
        records.end(number, COMPLETED)
    found = searched(sweep, records, lambda values: 1.0)
    assert [trial["number"] for trial in found] == [2, 3, 4, 5]
    assert found[0]["values"] == {RATE: 0.3}


def test_with_halving_it_is_bohb_and_what_was_given_up_ranks_below_what_went_on(tmp_path: Path) -> None:
    sweep = a_sweep(
        {RATE: {"uniform": [0.0, 1.0]}}, trials=40, search="tpe", scheduler="asha", grace_tokens=10
    )
    records = Records(tmp_path, sweep.sweep)
    search, scheduler = ParzenSearch(Space(sweep), sweep.sweep, records), make_scheduler(sweep.sweep, 80)
    rates, tokens = [], 0
    while isinstance(told := search.suggest(name := f"t{len(rates)}"), dict):
        rates.append(told["trial"]["values"][RATE])
        losses = [abs(rates[-1] - 0.7) + 1 / step for step in range(1, 9)]
        told_of = len(a_trial(scheduler, name, losses))
        for step in range(1, told_of):  # Ray Tune does not tell a search of the result that ends a trial
            search.on_trial_result(name, {"tokens": 10 * step, "validation_loss": losses[step - 1]})
        last = {"tokens": 10 * told_of, "validation_loss": losses[told_of - 1]}
        search.on_trial_complete(name, last | ({"state": COMPLETED} if told_of == 8 else {}))
        tokens += 10 * told_of
    assert tokens < 0.5 * 40 * 80
    distances = [abs(rate - 0.7) for rate in rates]
    assert sum(distances[20:]) < 0.8 * sum(distances[:20])


def a_trial(scheduler: TrialScheduler, name: str, losses: list[float]) -> list[str]:
    """Tell a scheduler a trial's losses at 10, 20, ... tokens; returns what it says to each."""
    past: Any = _Past(name)
    scheduler.on_trial_add(None, past)  # type: ignore[arg-type]
    told = []
    for number, loss in enumerate(losses, 1):
        result = {"tokens": 10 * number, "validation_loss": loss, "training_iteration": number}
        told.append(scheduler.on_trial_result(None, past, result))  # type: ignore[arg-type]
        if told[-1] == TrialScheduler.STOP:
            break
    return told


@pytest.mark.parametrize("kind", ["asha", "median"])
def test_the_worst_are_given_up_also_after_the_sweep_was_continued(tmp_path: Path, kind: str) -> None:
    sweep = a_sweep({RATE: [1, 2, 3, 4, 5]}, scheduler=kind, grace_tokens=20)
    good, bad = [2.0] * 8, [3.0] * 8
    fresh = make_scheduler(sweep.sweep, 80)
    for number in range(4):
        assert TrialScheduler.STOP not in a_trial(fresh, f"g{number}", good)
    told = a_trial(fresh, "bad", bad)
    assert told[0] == TrialScheduler.CONTINUE and TrialScheduler.STOP in told

    records = Records(tmp_path, sweep.sweep)
    for number in range(4):
        records.begin(number, {RATE: number + 1})
        for step, loss in enumerate(good, 1):
            records.result(number, {"step": step, "tokens": 10 * step, "validation_loss": loss})
        records.end(number, GIVEN_UP if number else COMPLETED)
    again = make_scheduler(sweep.sweep, 80)
    remember(again, records)
    assert a_trial(again, "bad", bad) == told
