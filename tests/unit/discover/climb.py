"""A problem for tests: whatever text is written moves a number, up by vowels, and some texts are refused."""

from __future__ import annotations

from typing import Any

from codex_ray.discover.problem import MAXIMISE, Bound, Problem, Refused
from codex_ray.discover.problems.verdict import Verdict

TOP = 10.0


class Climb(Problem):
    """Climb to ten."""

    name = "climb"
    direction = MAXIMISE
    baseline = Bound(0.5, "a first step")
    bounds = (Bound(TOP, "the top"),)

    def __init__(self, fails: str = "") -> None:
        self.fails = fails

    def seeds(self, seed: int, count: int) -> list[Any]:
        return [round(0.01 * number, 2) for number in range(count)]

    def verify(self, solution: Any) -> Verdict:
        if not isinstance(solution, float) or not 0 <= solution <= TOP:
            return Verdict.refused("a number from 0 to 10 is wanted")
        return Verdict(True, solution, solution, solution)

    def prompt(self, solution: Any, verdict: Verdict) -> str:
        return f"def at {solution:.2f} "

    def read(self, solution: Any, text: str) -> Any:
        if self.fails == "raises":
            raise ZeroDivisionError("no such thing")
        if self.fails and self.fails in text:
            raise RuntimeError("it hurts")
        if len(text) < 2:
            raise Refused("too short")
        return round(solution + sum(letter in "aeiou" for letter in text) / len(text), 6)
