"""Environments: what answers a model's turns and judges how its episodes end.

An environment lives in a scorer actor. What it says follows from the episode that it is given, which holds
all turns so far: so one that was lost is replaced without anything to replay, and one that keeps state of its
own makes it again from the episode.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Protocol

from codex_ray.rollout.episode import Episode, Scored

LONGEST_EXPRESSION = 200  # characters; products of such numbers are computed at once
UNKNOWN = "?"
_ASKED = re.compile(r"<<([^<>=]*)=$")
_OPERATORS: dict[type[ast.AST], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class Environment(Protocol):
    """Answers turns, and gives rewards."""

    def respond(self, episode: Episode) -> str | None:
        """Return what the model reads after its last turn, or None where the episode ends with it.

        With ``rollout.turn_tokens`` a first turn that this cut is asked about as well.
        """

    def score(self, episode: Episode) -> float | Scored:
        """Return the reward of an episode that has ended, and more if there is more to say."""


EnvironmentBuilder = Callable[[], Environment]
"""Makes an environment; called in the scorer's process."""


@dataclass(frozen=True)
class SingleTurn:
    """An environment of one turn: a function of the problem and the completion's text gives the reward."""

    verify: Callable[[Any, str], float]

    def __call__(self) -> Environment:
        """Build it, which is to return itself."""
        return self

    def respond(self, episode: Episode) -> str | None:
        """End the episode."""
        return None

    def score(self, episode: Episode) -> float:
        """Judge the completion."""
        return self.verify(episode.problem, episode.text)


@dataclass(frozen=True)
class Calculator:
    """A calculator within the text: after ``<<12*34=`` the model reads ``408>>`` and writes on.

    Turns are to end where the result belongs, at ``stop``. An expression that is none is answered by ``?>>``.
    The reward is ``verify(problem, text)`` of all that was written and read.
    """

    stop: ClassVar[tuple[str, ...]] = ("=",)
    verify: Callable[[Any, str], float]

    def __call__(self) -> Environment:
        """Build it, which is to return itself."""
        return self

    def respond(self, episode: Episode) -> str | None:
        """Return the value of an expression that the last turn leaves open; other turns end the episode."""
        asked = _ASKED.search(episode.turns[-1].written)
        return None if asked is None else f"{evaluate(asked[1])}>>"

    def score(self, episode: Episode) -> float:
        """Judge the whole text."""
        return self.verify(episode.problem, episode.transcript)


def evaluate(expression: str) -> str:
    """Return the exact value of an expression of numbers, + - * / and parentheses: ``408``, ``-3``, ``7/2``.

    What is no such expression, divides by zero or is longer than 200 characters is ``?``.
    """
    try:
        if len(expression) > LONGEST_EXPRESSION:
            return UNKNOWN
        value = _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return UNKNOWN
    return str(value)


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError("not an expression of numbers")
