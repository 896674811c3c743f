"""What a verifier says of a solution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

LARGEST = 1e300


@dataclass(frozen=True)
class Verdict:
    """The grade of a solution.

    Attributes:
        valid: whether it is a solution at all.
        reward: what training maximises; 0 for what is not.
        value: what the archive maximises; minus infinity for what is not.
        figure: the problem's own number, such as a bound, which may be one to minimise; None likewise.
        reason: why it is none.
    """

    valid: bool
    reward: float = 0.0
    value: float = -math.inf
    figure: float | None = None
    reason: str = ""

    @classmethod
    def refused(cls, reason: str) -> Verdict:
        """The grade of what is no solution."""
        return cls(valid=False, reason=reason)


def numbers_of(found: Any, shortest: int, longest: int) -> list[float] | str:
    """Return a list of finite numbers as floats, or the reason why it is none."""
    if not isinstance(found, (list, tuple)):
        return f"a list of numbers is wanted, not a {type(found).__name__}"
    if not shortest <= len(found) <= longest:
        return f"{len(found)} numbers are given, and {shortest} to {longest} are wanted"
    for place, number in enumerate(found):
        if isinstance(number, bool) or not isinstance(number, Real):
            return f"number {place} is a {type(number).__name__}"
        if not abs(number) <= LARGEST:  # type: ignore[operator]  # which NaN is not either
            return f"number {place} is not finite, or beyond {LARGEST:g}"
    return [float(number) for number in found]
