"""Small problems with exact verifiers, which a tiny model learns in minutes: sorting digits, arithmetic.

A question is a function of (seed, index) alone, so that an order of them needs no list, and two ranges of
indices are separate draws. Digits to be sorted stand apart, so that they are tokens of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Question:
    """A question and its one right answer."""

    prompt: str
    answer: str


def sorting(seed: int, index: int, *, digits: int = 5) -> Question:
    """Return a row of digits to be sorted: ``sort 3 1 2 =``, answered by ``1 2 3``."""
    drawn = _draw(seed, index).integers(0, 10, size=digits).tolist()
    return Question(f"sort {_row(drawn)} =", _row(sorted(drawn)))


def arithmetic(seed: int, index: int, *, largest: int = 20) -> Question:
    """Return a sum, difference or product of two numbers from 0 to ``largest``: ``7 * 12 =``, ``84``."""
    draw = _draw(seed, index)
    left, right = draw.integers(0, largest + 1, size=2).tolist()
    sign, answer = [("+", left + right), ("-", left - right), ("*", left * right)][int(draw.integers(3))]
    return Question(f"{left} {sign} {right} =", str(answer))


def verify(problem: Question, text: str) -> float:
    """Return 1 where the first line of a completion, without spaces around it, is the answer; otherwise 0."""
    lines = text.strip().splitlines()
    return float(bool(lines) and lines[0].strip() == problem.answer)


def verify_calculation(problem: Question, text: str) -> float:
    """Return 1 where a text that may hold calculations ends in the answer: ``<<7*12=84>> 84``."""
    words = text.rsplit(">>", 1)[-1].split()
    return float(words[-1:] == [problem.answer])


def _draw(seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))


def _row(digits: list[int]) -> str:
    return " ".join(map(str, digits))
