"""Autocorrelation inequalities: bounds from step functions on [-1/4, 1/4], n equal steps.

The first is ``max(f*f) / (integral of f)^2`` for f >= 0, to be made small. The second is
``||f*f||_2^2 / (||f*f||_1 ||f*f||_inf)``, to be made large; f*f is piecewise linear, so its norms are exact
from its values at the steps' borders.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codex_ray.discover.problems.verdict import Verdict, numbers_of

LONGEST = 100_000
HIGHEST = 1000.0
SMALLEST_SUM = 0.01
_DIRECT = 4096  # longer ones by Fourier transform


def _convolved(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(steps) <= _DIRECT:
        return np.convolve(steps, steps)
    size = 2 * len(steps) - 1
    transformed = np.fft.rfft(steps, 1 << (size - 1).bit_length())
    whole: NDArray[np.float64] = np.fft.irfft(transformed**2, 1 << (size - 1).bit_length())[:size]
    return whole


def first_bound(f: Sequence[float]) -> float:
    """Return ``2 n max(f*f) / (sum f)^2`` of steps that are taken as they are."""
    steps = np.asarray(f, dtype=np.float64)
    return float(2 * len(steps) * _convolved(steps).max() / steps.sum() ** 2)


def exact_first_bound(f: Sequence[Fraction]) -> Fraction:
    """Return the first bound of rational steps, exactly."""
    count = len(f)
    most = max(
        sum((f[i] * f[k - i] for i in range(max(0, k - count + 1), min(k + 1, count))), Fraction(0))
        for k in range(2 * count - 1)
    )
    return 2 * count * most / sum(f, Fraction(0)) ** 2


def second_bound(f: Sequence[float]) -> float:
    """Return the second bound of steps that are taken as they are."""
    nodes = np.concatenate([[0.0], _convolved(np.asarray(f, dtype=np.float64)), [0.0]])
    width = 1 / (len(nodes) - 1)
    before, after = nodes[:-1], nodes[1:]
    square = width / 3 * float((before**2 + before * after + after**2).sum())
    return square / (width * float(np.abs(nodes).sum()) * float(np.abs(nodes).max()))


def _steps(found: Any) -> list[float] | str:
    steps = numbers_of(found, 1, LONGEST)
    if isinstance(steps, str):
        return steps
    if min(steps) < 0:
        return "a step is negative"
    held = [min(step, HIGHEST) for step in steps]
    return held if sum(held) >= SMALLEST_SUM else f"the steps add up to less than {SMALLEST_SUM}"


def verify_first(found: Any) -> Verdict:
    """Grade steps for the first inequality; reward 1 / bound, value - bound."""
    steps = _steps(found)
    if isinstance(steps, str):
        return Verdict.refused(steps)
    bound = first_bound(steps)
    return Verdict(valid=True, reward=1 / bound, value=-bound, figure=bound)


def verify_second(found: Any) -> Verdict:
    """Grade steps for the second inequality; reward and value are the bound."""
    steps = _steps(found)
    if isinstance(steps, str):
        return Verdict.refused(steps)
    bound = second_bound(steps)
    return Verdict(valid=True, reward=bound, value=bound, figure=bound)
