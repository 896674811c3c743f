"""Problems as a search sees them: found by name, started from seeds, answered in operator programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from codex_ray.discover.problem import Problem, answer, best_known, find_problem, key_of
from codex_ray.discover.problems import erdos
from codex_ray.discover.problems.operators import Operators
from codex_ray.discover.problems.verdict import Verdict
from codex_ray.discover.registry import OPERATORS, PROBLEMS
from codex_ray.errors import ConfigError

IN_OPERATORS = [name for name, languages in PROBLEMS.items() if OPERATORS in languages]


def found(name: str) -> Operators:
    problem = find_problem(name, OPERATORS, {})
    assert isinstance(problem, Operators)
    return problem


@pytest.mark.parametrize("name", IN_OPERATORS)
def test_seeds_are_valid_and_follow_from_their_seed(name: str) -> None:
    problem = found(name)
    seeds = problem.seeds(3, 4)
    assert all(problem.verify(one).valid for one in seeds)
    assert len({key_of(one) for one in seeds}) == 4
    assert problem.seeds(3, 4) == seeds != problem.seeds(4, 4)


@pytest.mark.parametrize("name", IN_OPERATORS)
def test_a_program_run_again_gives_the_same_solution_and_some_are_better(name: str) -> None:
    problem, draw = found(name), np.random.default_rng(1)
    start = problem.seeds(3, 1)[0]
    programs = [problem.random_program(draw) for _ in range(60)]
    answers = [answer(problem, start, text) for text in programs]
    again = [answer(problem, start, text) for text in programs]
    assert answers == again
    values = [one.verdict.value for one in answers if one.verdict.valid]
    assert values and max(values) > problem.verify(start).value
    better = max(answers, key=lambda one: one.verdict.value)
    assert problem.verify(better.solution) == better.verdict


@pytest.mark.parametrize("name", IN_OPERATORS)
def test_the_published_bounds_are_better_than_the_baseline(name: str) -> None:
    problem = found(name)
    sign = 1 if problem.direction == "maximise" else -1
    if problem.baseline is None or not problem.bounds:
        return
    figures = [sign * bound.figure for bound in problem.bounds]
    assert sorted(figures) == figures and figures[0] > sign * problem.baseline.figure
    assert best_known(problem) == problem.bounds[-1].figure


@pytest.mark.parametrize("text", ["", "fly3", "descend9", "descend", "project0 " * 11, "project0;" * 2 + "x"])
def test_what_is_no_program_is_refused_with_a_reason(text: str) -> None:
    problem = found("erdos_min_overlap")
    got = answer(problem, problem.seeds(1, 1)[0], text)
    if text.startswith("project0;"):
        assert got.verdict.valid  # what comes after the end is not read
    else:
        assert got.solution is None and not got.verdict.valid and got.verdict.reason


@pytest.mark.parametrize("sharpness", [20.0, np.inf])
def test_the_slope_is_the_gradient_of_the_soft_maximum(sharpness: float) -> None:
    state = np.random.default_rng(2).uniform(0.1, 0.9, 12)

    def height(steps: np.ndarray) -> float:
        overlaps = 2 * np.correlate(steps, 1 - steps, "full") / len(steps)
        if np.isinf(sharpness):
            return float(overlaps.max())
        return float(np.log(np.exp(sharpness * overlaps).sum()) / sharpness)

    eye = np.eye(12) * 1e-6
    measured = [(height(state + one) - height(state - one)) / 2e-6 for one in eye]
    assert erdos.slope(state, sharpness) == pytest.approx(measured, abs=1e-6)


def test_projection_is_the_nearest_of_the_problems_functions() -> None:
    state = np.random.default_rng(3).normal(0.5, 0.6, 48)
    near = erdos.project(state)
    assert near.min() >= 0 and near.max() <= 1 and near.sum() == pytest.approx(24, abs=1e-9)
    for other in np.random.default_rng(4).uniform(0, 1, (50, 48)):
        step = erdos.project(near + 0.01 * (other - near))
        assert np.linalg.norm(step - state) >= np.linalg.norm(near - state) - 1e-9
    assert erdos.verify(near.tolist()).valid


class Strange(Problem):
    """A user's problem whose verifier gives what it is told to."""

    name = "strange"

    def __init__(self, verdict: Any = None) -> None:
        self.verdict = verdict

    def seeds(self, seed: int, count: int) -> list[Any]:
        return list(range(count))

    def verify(self, solution: Any) -> Verdict:
        return self.verdict  # type: ignore[no-any-return]

    def prompt(self, solution: Any, verdict: Verdict) -> str:
        return "?"

    def read(self, solution: Any, text: str) -> Any:
        return text


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), "1", True, None])
@pytest.mark.parametrize("name", ["value", "reward"])
def test_a_verdict_whose_numbers_are_none_is_refused(number: Any, name: str) -> None:
    verdict = Verdict(**{"valid": True, "reward": 1.0, "value": 1.0, "figure": 1.0, name: number})
    got = answer(Strange(verdict), 0, "x")
    assert not got.verdict.valid and name in got.verdict.reason


def test_a_verifier_of_the_wrong_type_is_an_error_of_the_problem() -> None:
    with pytest.raises(TypeError, match="float"):
        answer(Strange(0.5), 0, "x")


@pytest.mark.parametrize(
    ("name", "language", "options", "told"),
    [
        ("erdos_min_overlop", OPERATORS, {}, "erdos_min_overlap"),
        ("erdos_min_overlap", "french", {}, "it has operators"),
        ("erdos_min_overlap", OPERATORS, {"stops": 3}, "stops"),
        ("erdos_min_overlap", OPERATORS, {"steps": 1}, "2 to 1000"),
        ("no.such.Module", OPERATORS, {}, "cannot be loaded"),
        ("collections.Counter", OPERATORS, {}, "no codex_ray.discover.problem.Problem"),
    ],
)
def test_problems_that_cannot_be_had_are_refused(
    name: str, language: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        find_problem(name, language, options)


def test_a_users_class_is_found_by_its_path() -> None:
    assert find_problem(f"{__name__}.Strange", OPERATORS, {"verdict": 3}).name == "strange"


def test_a_users_class_may_take_its_options() -> None:
    problem = find_problem("erdos_min_overlap", OPERATORS, {"steps": 12})
    assert len(problem.seeds(1, 1)[0]) == 12
