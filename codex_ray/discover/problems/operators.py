"""Operator programs: a solution is changed by a few words, each an operator and its strength.

For models far too small to write code. A program is a row of words such as ``descend3``: the operator, and
which of the strengths from weak to strong. What noise it draws follows from the solution and the words, so
that a program run again gives the same solution.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codex_ray.discover.problem import Refused, Spoken, Subject
from codex_ray.discover.problems.verdict import Verdict

Floats = NDArray[np.float64]
Operator = Callable[[Floats, float, np.random.Generator], Floats]
"""Takes a state, a strength and what noise is drawn from, and returns another state."""

STRENGTHS: Sequence[float] = tuple(np.geomspace(0.001, 0.9, 6).tolist())
WORDS = 10  # of a program
END = ";"
_WORD = re.compile(r"([a-z]+)([0-9])")


class Operators(Spoken):
    """A subject whose solutions are changed by operator programs.

    Args:
        subject: what is sought.
        operators: by name, lower-case letters.
        words: most words of a program.
    """

    stop = (END,)

    def __init__(self, subject: Subject, operators: Mapping[str, Operator], words: int = WORDS) -> None:
        super().__init__(subject)
        self.operators, self.words = dict(operators), words

    def state(self, solution: Any) -> Floats:
        """Return a solution as what operators change: its numbers."""
        return np.asarray(solution, dtype=np.float64)

    def solution(self, state: Floats) -> Any:
        """Return what operators made as a solution, which need not be a valid one."""
        return state.tolist()

    @abstractmethod
    def told(self, solution: Any) -> str:
        """Return what the model is told of a solution, in a few words."""

    def prompt(self, solution: Any, verdict: Verdict) -> str:
        """See :meth:`codex_ray.discover.problem.Problem.prompt`."""
        return f"{self.told(solution)} at {verdict.figure:.4f} do"

    def read(self, solution: Any, text: str) -> Any:
        """See :meth:`codex_ray.discover.problem.Problem.read`."""
        words = text.split(END)[0].split()
        if not 1 <= len(words) <= self.words:
            raise Refused(f"a program has 1 to {self.words} words, not {len(words)}")
        steps = [self._step(word) for word in words]
        draw = np.random.default_rng(_seed(solution, words))
        state = self.state(solution)
        for operator, strength in steps:
            state = operator(state, strength, draw)
        return self.solution(state)

    def random_program(self, draw: np.random.Generator) -> str:
        """Return a program of words drawn uniformly."""
        names = list(self.operators)
        words = [
            f"{names[int(draw.integers(len(names)))]}{int(draw.integers(len(STRENGTHS)))}"
            for _ in range(self.words)
        ]
        return " ".join(words)

    def _step(self, word: str) -> tuple[Operator, float]:
        found = _WORD.fullmatch(word)
        if found is None or found[1] not in self.operators or int(found[2]) >= len(STRENGTHS):
            raise Refused(f"there is no operator {word[:20]!r}")
        return self.operators[found[1]], STRENGTHS[int(found[2])]


def _seed(solution: Any, words: Sequence[str]) -> int:
    text = json.dumps([solution, list(words)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
