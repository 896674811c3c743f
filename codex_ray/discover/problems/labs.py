"""Low-autocorrelation binary sequences: the merit factor, to be made large; exact in integers.

``E = sum over k of C_k^2`` with ``C_k = sum_i s_i s_{i+k}``, and the merit factor is ``N^2 / (2 E)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from codex_ray.discover.problems.verdict import Verdict, numbers_of


def merit_factor(signs: Sequence[int]) -> Fraction:
    """Return the merit factor of two or more signs."""
    count = len(signs)
    energy = sum(sum(signs[i] * signs[i + k] for i in range(count - k)) ** 2 for k in range(1, count))
    return Fraction(count**2, 2 * energy)


def verify(found: Any, count: int) -> Verdict:
    """Grade a list of ``count`` numbers, each 1 or -1; reward and value are the merit factor."""
    numbers = numbers_of(found, count, count)
    if isinstance(numbers, str):
        return Verdict.refused(numbers)
    if any(number not in (1, -1) for number in numbers):
        return Verdict.refused("every number must be 1 or -1")
    merit = float(merit_factor([int(number) for number in numbers]))
    return Verdict(valid=True, reward=merit, value=merit, figure=merit)
