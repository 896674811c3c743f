"""Python as a tool of a model's turns."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from codex_ray.rollout.environment import Environment
from codex_ray.rollout.episode import Episode, Prompt, Turn
from codex_ray.rollout.python_tool import Python
from codex_ray.rollout.rewards import find_environment, stops_of


def episode(*written: str) -> Episode:
    turns = tuple(Turn(None, [], [1], text, text, [0.0], [0.0], "stop") for text in written)
    return Episode(0, 0, 0, 0, Prompt([1], "408"), turns)


@pytest.fixture(scope="module")
def tool() -> Iterator[Environment]:
    made = Python(lambda problem, text: float(problem in text))()
    yield made
    made._sandbox.close()


def test_it_is_known_by_name() -> None:
    assert find_environment("python") is Python and stops_of("python") == ("</python>",)


def test_programs_are_answered(tool: Environment) -> None:
    assert tool.respond(episode("So <python>print(12 * 34)</python>")) == "<output>408</output>"
    assert tool.respond(episode("It is 408.")) is None
    assert tool.respond(episode("<python>x = 1</python>")) == "<output></output>"
    wrong = tool.respond(episode("<python>print(1); 1 / 0</python>"))
    assert wrong == "<output>1\nZeroDivisionError: division by zero, line 1</output>"
    cut = tool.respond(episode("<python>print('x' * 5000)</python>"))
    assert cut == f"<output>{'x' * 2000}</output>"


def test_one_program_leaves_nothing_for_the_next(tool: Environment) -> None:
    tool.respond(episode("<python>kept = 1; open('kept', 'w').write('1')</python>"))
    found = tool.respond(episode("<python>import os; print(os.listdir()); print(kept)</python>"))
    assert found.startswith("<output>[]\nNameError")


def test_the_reward_sees_all_of_the_text(tool: Environment) -> None:
    assert tool.score(episode("<python>", "the answer is 408")) == 1.0
    assert tool.score(episode("7")) == 0.0
