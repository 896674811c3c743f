"""Erdős's minimum overlap problem: an upper bound from a step function, to be made small.

h has n equal steps on [0, 2], 0 <= h <= 1 and integral 1. The bound is the largest overlap of h with a
shifted 1 - h, ``(2/n) max_k sum_i h_i (1 - h_{i+k})``; between whole shifts the overlap is linear, so these
suffice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from codex_ray.discover.problems.verdict import Verdict, numbers_of

LONGEST = 1000
SUM_TOLERANCE = 1e-9  # relative, of the integral before it is mended


def bound(h: Sequence[float]) -> float:
    """Return the bound of steps that are taken as they are."""
    steps = np.asarray(h, dtype=np.float64)
    return float(2 * np.correlate(steps, 1 - steps, "full").max() / len(steps))


def exact_bound(h: Sequence[Fraction]) -> Fraction:
    """Return the bound of rational steps, exactly.

    Raises:
        ValueError: they are no step function of the problem.
    """
    count = len(h)
    if not count or any(not 0 <= step <= 1 for step in h) or 2 * sum(h) != count:
        raise ValueError("steps must lie in 0 to 1 and add up to half their number")
    common = math.lcm(*(step.denominator for step in h))
    whole = [int(step * common) for step in h]
    rest = [common - step for step in whole]
    overlaps = (
        sum(whole[i] * rest[i + k] for i in range(max(0, -k), min(count, count - k)))
        for k in range(1 - count, count)
    )
    return Fraction(2 * max(overlaps), count * common**2)


def rational(h: Sequence[float], denominator: int = 10**12) -> list[Fraction]:
    """Round steps to fractions whose sum is exactly half their number, for :func:`exact_bound`.

    Raises:
        ValueError: no step has room for the difference.
    """
    count = len(h)
    whole = [min(denominator, max(0, round(step * denominator))) for step in h]
    if count * denominator % 2:
        denominator, whole = 2 * denominator, [2 * step for step in whole]
    missing = count * denominator // 2 - sum(whole)
    for place in sorted(range(count), key=lambda i: whole[i] if missing > 0 else -whole[i]):
        change = max(-whole[place], min(denominator - whole[place], missing))
        whole[place] += change
        missing -= change
    if missing:
        raise ValueError("the steps cannot add up to half their number")
    return [Fraction(step, denominator) for step in whole]


def verify(found: Any) -> Verdict:
    """Grade a list of steps; reward 1 / bound, value - bound, both of what is computed here.

    The integral may be wrong by rounding alone; the steps are then rounded to fractions of integral exactly
    1, and it is their bound, in floating point, that counts.
    """
    steps = numbers_of(found, 1, LONGEST)
    if isinstance(steps, str):
        return Verdict.refused(steps)
    if min(steps) < 0 or max(steps) > 1:
        return Verdict.refused("a step lies outside 0 to 1")
    if abs(2 * sum(steps) / len(steps) - 1) > SUM_TOLERANCE:
        return Verdict.refused(f"the integral is {2 * sum(steps) / len(steps):.12g}, not 1")
    c5 = bound([float(step) for step in rational(steps)])
    return Verdict(valid=True, reward=1 / c5, value=-c5, figure=c5)
