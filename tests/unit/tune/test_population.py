"""Population based training's rules on a closed form, without any run."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codex_ray.config.sweep import Sweep
from codex_ray.errors import ConfigError
from codex_ray.tune.population import ancestry, exchanges, explored, segment_ends
from codex_ray.tune.records import COMPLETED, FAILED, STOPPED, Records
from codex_ray.tune.space import Space
from tests.unit.tune.sweeps import a_sweep

RATE = "optimizer.learning_rate"
LENGTH = {"train.steps": 400, "validation.every": 10}
NOISE, UPDATES, SEGMENTS = 1e-3, 10, 40


def a_population(space: dict[str, Any], run: dict[str, Any] | None = None, **search: Any) -> Sweep:
    return a_sweep(space, LENGTH | (run or {}), scheduler="pbt", segment_steps=10, **search)


def trained(error: float, rate: float) -> float:
    """Expected squared error after some steps of SGD on a noisy quadratic: the best rate falls with it."""
    for _ in range(UPDATES):
        error = (1 - rate) ** 2 * error + rate**2 * NOISE
    return error


def population_of(sweep: Sweep, folder: Path) -> Records:
    """Train a population on the closed form; what a trial takes over is its giver's error."""
    space, records, errors = Space(sweep), Records(folder, sweep.sweep), {}
    for number in range(sweep.sweep.trials):
        records.begin(number, space.draw(number))
        errors[number] = 1.0
    for step in segment_ends(sweep, space):
        for trial in records:
            errors[trial.number] = trained(errors[trial.number], trial.values[RATE])
            records.result(
                trial.number, {"step": step, "tokens": step, "validation_loss": errors[trial.number]}
            )
            records.end(trial.number, STOPPED)
        if step < LENGTH["train.steps"]:
            for one in exchanges(space, sweep, records, step):
                errors[one.taker] = errors[one.giver]
                records.take_over(one.taker, one.giver, one.values, step)
    return records


def test_it_overtakes_every_fixed_rate_where_the_best_rate_falls(tmp_path: Path) -> None:
    sweep = a_population({RATE: {"log_uniform": [1e-3, 1.0]}}, trials=8)
    records = population_of(sweep, tmp_path)
    fixed = [Space(sweep).draw(number)[RATE] for number in range(8)]
    fixed += list(np.geomspace(1e-3, 1.0, 400))
    ends = []
    for rate in fixed:
        error = 1.0
        for _ in range(SEGMENTS):
            error = trained(error, rate)
        ends.append(error)
    best = records.best()
    assert best is not None and best.final("validation_loss") < 0.8 * min(ends)
    parts = list(ancestry(records, best))
    assert parts[0]["from"] == 0 and parts[-1]["to"] == 400
    assert all(one["to"] == after["from"] for one, after in itertools.pairwise(parts))
    error = 1.0
    for part in parts:
        for _ in range((part["to"] - part["from"]) // 10):
            error = trained(error, part["values"][RATE])
    assert error == pytest.approx(best.final("validation_loss"))  # the schedule that it found, done alone


def filled(folder: Path, sweep: Sweep, losses: list[float | None]) -> Records:
    records = Records(folder, sweep.sweep)
    for number, loss in enumerate(losses):
        records.begin(number, {RATE: 0.01 * (number + 1)})
        if loss is not None:
            records.result(number, {"step": 10, "tokens": 10, "validation_loss": loss})
        records.end(number, STOPPED if loss is not None else FAILED, None if loss is not None else "it broke")
    return records


def test_the_worst_quarter_takes_from_the_best_and_failed_ones_first(tmp_path: Path) -> None:
    sweep = a_population({RATE: {"uniform": [0.0, 1.0]}})
    losses = [3.0, 1.0, math.nan, 2.0, 9.0, 4.0, 5.0, 6.0]
    found = exchanges(Space(sweep), sweep, filled(tmp_path / "a", sweep, losses), 10)
    assert {one.taker for one in found} == {2, 4} and {one.giver for one in found} <= {1, 3}
    records = filled(tmp_path / "b", sweep, [3.0, None, 2.0, 1.0, 5.0])
    found = exchanges(Space(sweep), sweep, records, 10)
    assert [one.taker for one in found] == [1, 4] and {one.giver for one in found} <= {2, 3}
    # One exchange is written down, and the sweep is cut off: the rest is what it would have been.
    records.take_over(1, found[0].giver, found[0].values, 10)
    assert exchanges(Space(sweep), sweep, records, 10) == found[1:]
    records.end(4, COMPLETED)
    assert exchanges(Space(sweep), sweep, records, 10) == []


def test_exploring_moves_what_may_move_and_keeps_bounds_and_constraints() -> None:
    sweep = a_population(
        {
            RATE: {"log_uniform": [1e-3, 1e-1]},
            "model.residual.kind": ["mhc", "plain"],
            "schedule.warmup_steps": {"integer": [10, 50, 5]},
            "optimizer.weight_decay": [0.0, 0.1, 0.2],
        },
        constraints=[f"{RATE} < 0.05"],
    )
    space, random = Space(sweep), np.random.default_rng(0)
    values = {
        RATE: 0.045,
        "model.residual.kind": "plain",
        "schedule.warmup_steps": 20,
        "optimizer.weight_decay": 0.1,
    }
    found = [explored(space, values, random) for _ in range(200)]
    assert {one["model.residual.kind"] for one in found} == {"plain"}
    assert {one["schedule.warmup_steps"] for one in found} <= set(range(10, 51, 5))
    assert {one["optimizer.weight_decay"] for one in found} == {0.0, 0.1, 0.2}
    assert all(1e-3 <= one[RATE] < 0.05 for one in found)
    assert sum(one[RATE] == pytest.approx(0.036) for one in found) > 50


@pytest.mark.parametrize(
    ("space", "run", "told"),
    [
        ({"seed": [1, 2]}, {}, "sweep.space has none"),
        ({RATE: [1e-3, 2e-3]}, {"validation.every": 4}, "give a divisor of 10"),
        ({RATE: [1e-3, 2e-3], "train.steps": [10, 20]}, {}, "leave train.steps out"),
        ({RATE: [1e-3, 2e-3]}, {"checkpoints.storage": "/store"}, "leave checkpoints.storage out"),
    ],
)
def test_what_a_population_cannot_do_is_refused(space: Any, run: dict[str, Any], told: str) -> None:
    sweep = a_population(space, run)
    with pytest.raises(ConfigError, match=told):
        segment_ends(sweep, Space(sweep))
