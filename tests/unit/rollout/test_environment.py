"""What environments answer and how episodes are judged."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_ray.rollout.environment import Calculator, SingleTurn, evaluate
from codex_ray.rollout.episode import Episode, Failure, Outcome, Prompt, Scored, Turn
from codex_ray.rollout.problems import (
    Question,
    arithmetic,
    sorting,
    verify,
    verify_calculation,
)
from codex_ray.rollout.scorer import ScoringActor, judge


def episode(*written: str, finish: str = "stop", told: str = "408>>", problem: Any = None) -> Episode:
    turns = [
        Turn(told if place else None, [], [5], text.removesuffix("="), text, [-1.0], [-1.0], finish)
        for place, text in enumerate(written)
    ]
    return Episode(0, 0, 0, 0, Prompt([1], problem), tuple(turns))


def test_the_calculator_answers_an_open_expression_only() -> None:
    calculator = Calculator(verify_calculation)()
    assert calculator.respond(episode("so <<12*34=")) == "408>>"
    assert calculator.respond(episode("<<12*34=", "<<408/3=")) == "136>>"
    assert calculator.respond(episode("<<12*=")) == "?>>"
    for closed in ("12*34=", "<<12*34", "<<12*34=408>> 408", "<<1=2="):
        assert calculator.respond(episode(closed)) is None


def test_the_calculators_text_is_what_was_written_and_read() -> None:
    ended = episode("<<12*34=", " 408", problem=Question("12 * 34 =", "408"))
    assert ended.transcript == "<<12*34=408>> 408"
    assert Calculator(verify_calculation)().score(ended) == 1.0


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("12*34", "408"),
        (" 1 + 2*(3-5) ", "-3"),
        ("7/2", "7/2"),
        ("6/2", "3"),
        ("1/0", "?"),
        ("2**99", "?"),
        ("__import__('os')", "?"),
        ("", "?"),
        ("True+1", "?"),
        ("1.5", "?"),
        ("(" * 190, "?"),
        ("-" * 150 + "1", "1"),
        ("9" * 201, "?"),
    ],
)
def test_expressions(expression: str, value: str) -> None:
    assert evaluate(expression) == value


@given(st.integers(-99, 99), st.integers(-99, 99), st.sampled_from("+-*/"))
def test_the_calculator_is_exact(left: int, right: int, sign: str) -> None:
    found = evaluate(f"{left}{sign}({right})")
    if sign == "/" and right == 0:
        assert found == "?"
    else:
        operations = {"+": left + right, "-": left - right, "*": left * right}
        assert Fraction(found) == (Fraction(left, right) if sign == "/" else operations[sign])


def test_problems_follow_from_seed_and_index() -> None:
    assert sorting(1, 5) == sorting(1, 5) != sorting(1, 6)
    assert sorting(1, 5) != sorting(2, 5)
    for index in range(50):
        question = sorting(0, index, digits=4)
        given_digits = question.prompt.removeprefix("sort ").removesuffix(" =").split()
        assert question.answer.split() == sorted(given_digits) and len(given_digits) == 4
        question = arithmetic(0, index, largest=9)
        assert evaluate(question.prompt.removesuffix("=")) == question.answer


def test_verifiers() -> None:
    question = Question("sort 3 1 2 =", "1 2 3")
    assert verify(question, " 1 2 3") == verify(question, "1 2 3\nsort") == 1.0
    assert verify(question, "1 2 3 4") == verify(question, "") == verify(question, "12 3") == 0.0
    assert verify_calculation(Question("", "84"), "<<7*12=84>>") == 0.0
    assert verify_calculation(Question("", "84"), "<<7*12=84>> 84") == 1.0


def test_an_environment_that_would_go_on_is_stopped_and_judged() -> None:
    calculator = Calculator(lambda problem, text: 0.5)
    assert judge(calculator, episode("<<1+1="), may_go_on=True) == Outcome(observation="2>>")
    assert judge(calculator, episode("<<1+1="), may_go_on=False) == Outcome(reward=0.5, cut=True)
    assert judge(calculator, episode("<<1+1=", finish="length"), may_go_on=False) == Outcome(reward=0.5)


@pytest.mark.parametrize("reward", [1, 0.25, True, np.float32(0.5), np.float64(2)])
def test_rewards_are_numbers_of_any_kind(reward: Any) -> None:
    found = judge(SingleTurn(lambda problem, text: reward), episode("x"), may_go_on=False).reward
    assert type(found) is float and found == float(reward)


@pytest.mark.parametrize("reward", [math.nan, math.inf, None, "1", [1.0]])
def test_what_is_no_finite_number_is_a_failure(reward: Any) -> None:
    scorer = ScoringActor(SingleTurn(lambda problem, text: reward))
    found = scorer.judge(episode("x"), False)
    assert isinstance(found, Failure) and found.kind == "ValueError" and repr(reward) in found.reason


def test_an_environment_that_raised_is_built_anew() -> None:
    built = []

    class Fragile(SingleTurn):
        def __call__(self) -> Fragile:
            built.append(self)
            return self

    def fail_at_first(problem: Any, text: str) -> float:
        if len(built) == 1:
            raise KeyError("first")
        return 1.0

    scorer = ScoringActor(Fragile(fail_at_first))
    found = scorer.judge(episode("x"), False)
    assert isinstance(found, Failure) and found.kind == "KeyError" and "test_environment.py" in found.reason
    assert scorer.judge(episode("x"), False) == Outcome(reward=1.0)
    assert len(built) == 2


def test_an_environment_may_say_more_than_a_reward() -> None:
    class Judge:
        def respond(self, episode: Episode) -> str | None:
            return "go on" if len(episode.turns) == 1 else None

        def score(self, episode: Episode) -> Scored:
            return Scored(0.5, {"turns": len(episode.turns)})

    cut = Turn(None, [], [1], "a", "a", [0.0], [0.0], "length")
    one = Episode(0, 0, 0, 0, Prompt([1]), (cut,))
    assert judge(Judge(), one, may_go_on=True) == Outcome(observation="go on")
    assert judge(Judge(), one, may_go_on=False) == Outcome(reward=0.5, detail={"turns": 1})
