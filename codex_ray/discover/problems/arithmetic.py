"""The toy: an expression of whole numbers that is as close to pi as it can be, in few characters; exact.

``pi`` is a fraction of thirty digits here, so that every distance is one too.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from codex_ray.discover.problem import MINIMISE, Bound, Problem, Refused
from codex_ray.discover.problems.verdict import Verdict
from codex_ray.errors import ConfigError
from codex_ray.rollout.environment import UNKNOWN, evaluate

PI = Fraction(3141592653589793238462643383279, 10**30)
LONGEST = 12


class Arithmetic(Problem):
    """The problem; ``longest`` is how many characters an expression may have."""

    name = "arithmetic"
    direction = MINIMISE
    baseline = Bound(float(PI - 3), "3")

    def __init__(self, longest: int = LONGEST) -> None:
        if not 1 <= longest <= 200:
            raise ConfigError(f"arithmetic takes expressions of 1 to 200 characters, not {longest}")
        self.longest = longest
        if longest >= 7:
            self.bounds = (Bound(float(abs(Fraction(355, 113) - PI)), "Zu Chongzhi, 355/113"),)

    def seeds(self, seed: int, count: int) -> list[Any]:
        """Return whole numbers from 1 on."""
        return [str(number + 1) for number in range(count)]

    def verify(self, solution: Any) -> Verdict:
        """Grade an expression: the distance from pi, and a reward of 1 / (1 + it)."""
        if not isinstance(solution, str) or not 1 <= len(solution) <= self.longest:
            return Verdict.refused(f"an expression of 1 to {self.longest} characters is wanted")
        value = evaluate(solution)
        if value == UNKNOWN:
            return Verdict.refused("it is no expression of whole numbers, + - * / and parentheses")
        distance = abs(Fraction(value) - PI)
        return Verdict(True, float(1 / (1 + distance)), -float(distance), float(distance))

    def prompt(self, solution: Any, verdict: Verdict) -> str:
        """Return the expression to better."""
        return f"closer to pi than {solution} in {self.longest} characters:"

    def read(self, solution: Any, text: str) -> Any:
        """Take the first line."""
        lines = text.strip().splitlines()
        if not lines:
            raise Refused("nothing was written")
        return lines[0].strip()

    def certificate(self, solution: Any) -> dict[str, Any]:
        """Return the value and its distance as fractions."""
        value = Fraction(evaluate(solution))
        return {"value": str(value), "distance": str(abs(value - PI)), "how": "in fractions"}
