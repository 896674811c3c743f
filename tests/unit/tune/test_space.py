from __future__ import annotations

from typing import Any

import pytest

from codex_ray.config.sweep import Sweep
from codex_ray.errors import ConfigError
from codex_ray.tune.space import Space, Values, trial_settings
from tests.unit.tune.sweeps import a_sweep

RATE = "optimizer.learning_rate"


def trials_of(sweep: Sweep) -> list[Values]:
    trials = Space(sweep).trials()
    assert trials is not None
    return trials


def test_draws_are_inside_and_a_function_of_seed_and_number_alone() -> None:
    space = Space(
        a_sweep(
            {
                RATE: {"log_uniform": [1e-4, 1e-2]},
                "schedule.final_share": {"uniform": [0.0, 0.5]},
                "schedule.warmup_steps": {"integer": [10, 45, 10]},
                "model.residual.kind": ["mhc", "plain"],
            }
        )
    )
    drawn = [space.draw(number) for number in range(200)]
    assert drawn[7] == space.draw(7) and drawn[7] != drawn[8]
    assert all(1e-4 <= one[RATE] <= 1e-2 and 0 <= one["schedule.final_share"] <= 0.5 for one in drawn)
    assert {one["schedule.warmup_steps"] for one in drawn} == {10, 20, 30, 40}
    assert {one["model.residual.kind"] for one in drawn} == {"mhc", "plain"}
    below = sum(one[RATE] < 1e-3 for one in drawn)
    assert 70 < below < 130, "a rate's logarithm is uniform"


def test_a_grid_has_every_combination_once_and_conditions_fold_it() -> None:
    space = {
        "optimizer.kind": ["adamw", "muon"],
        "optimizer.matrix_learning_rate": {"choice": [0.01, 0.02], "when": {"optimizer.kind": "muon"}},
        "seed": [1, 2],
    }
    trials = trials_of(a_sweep(space, search="grid"))
    assert len(trials) == 2 + 4
    assert sum("optimizer.matrix_learning_rate" in trial for trial in trials) == 4
    assert len({repr(trial) for trial in trials}) == 6


def test_constraints_hold_for_every_trial() -> None:
    space = {RATE: [1e-3, 1e-2], "train.batch_tokens": [4096, 8192, 16384]}
    sweep = a_sweep(space, search="grid", constraints=[f"{RATE} * train.batch_tokens < 50"])
    assert [(one[RATE], one["train.batch_tokens"]) for one in trials_of(sweep)] == [
        (1e-3, 4096),
        (1e-3, 8192),
        (1e-3, 16384),
        (1e-2, 4096),
    ]


def test_a_constraint_sees_what_a_group_sets() -> None:
    space = {"model": ["mhc-tiny", "mhc-20m"], "seed": [1, 2]}
    layers = {name: trial_settings(a_sweep({}), {"model": name}).model.layers for name in space["model"]}
    assert layers["mhc-tiny"] < layers["mhc-20m"]
    sweep = a_sweep(space, search="grid", constraints=[f"model.layers < {layers['mhc-20m']}"])
    assert {one["model"] for one in trials_of(sweep)} == {"mhc-tiny"}


def test_a_trial_has_the_words_values_and_groups() -> None:
    sweep = a_sweep({RATE: [1e-3, 2e-3]}, run={"train.steps": "70"})
    settings = trial_settings(sweep, {RATE: 2e-3, "model": "plain-tiny"}, name="one")
    assert settings.corpus == "corpus" and settings.train.steps == 70 and settings.name == "one"
    assert settings.optimizer.learning_rate == 2e-3 and settings.model.residual.kind == "plain"


@pytest.mark.parametrize(
    ("space", "search", "sentence"),
    [
        ({}, {}, "has nothing to try"),
        ({"optimizer.rate": [1, 2]}, {}, "unknown setting 'optimizer.rate'"),
        ({RATE: ["a", "b"]}, {}, "must be a number"),
        ({RATE: [1e-3, 1e-3]}, {}, "lists a value twice"),
        ({RATE: {"uniform": [2.0, 1.0]}}, {}, "must go from a low to a high bound"),
        ({"train.batch_tokens": {"integer": [1, 5, 0]}}, {}, "in steps of 1 or more"),
        ({RATE: {"log_uniform": [0.0, 1.0]}}, {}, "from a low, above 0, to a high bound"),
        ({RATE: {"uniform": [1.0]}}, {}, "needs numbers [low, high]"),
        ({RATE: {"uniform": [1.0, "x"]}}, {}, "needs numbers [low, high]"),
        ({RATE: {"normal": [0.0, 1.0]}}, {}, "must be a list of values, or one of"),
        ({RATE: {"uniform": [0.1, 1.0], "step": 2}}, {}, "(not step)"),
        ({"train.steps": {"uniform": [10.0, 20.0]}}, {}, "must be a whole number or null"),
        ({"seed": {"choice": [1, 2], "when": {"sed": 1}}}, {}, "when names 'sed'; did you mean 'seed'?"),
        (
            {
                "seed": {"choice": [1, 2], "when": {"train.steps": 5}},
                "train.steps": {"choice": [5, 6], "when": {"seed": 1}},
            },
            {},
            "are a circle",
        ),
        ({RATE: {"uniform": [0.1, 0.2]}}, {"search": "grid"}, "cannot try every value"),
        ({"seed": [1, 2]}, {"search": "grid", "constraints": ["seed > 5"]}, "leave nothing of the grid"),
        ({"seed": [1, 2]}, {"constraints": ["seed > 5"]}, "of 1000 draws none kept"),
        (
            {"seed": [1, 2]},
            {"constraints": ["sed > 5"]},
            "names the unknown setting 'sed'; did you mean 'seed'?",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_any_trial(
    space: dict[str, Any], search: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        trials_of(a_sweep(space, **search))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
