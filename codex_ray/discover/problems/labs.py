"""Low-autocorrelation binary sequences: the merit factor, to be made large; exact in integers.

``E = sum over k of C_k^2`` with ``C_k = sum_i s_i s_{i+k}``, and the merit factor is ``N^2 / (2 E)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from codex_ray.discover.problem import MAXIMISE, Bound, Subject
from codex_ray.discover.problems.operators import Floats, Operators
from codex_ray.discover.problems.verdict import Verdict, numbers_of
from codex_ray.errors import ConfigError

MOST_SIGNS = 10_000
_LEAST_ENERGY = {27: 37, 35: 73}  # Packebusch and Mertens 2016


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


class BinarySequences(Subject):
    """The problem for a search: a negative control, on which plain hill climbing is hard to beat."""

    name = "low_autocorrelation"
    direction = MAXIMISE

    def __init__(self, count: int = 35) -> None:
        if not 3 <= count <= MOST_SIGNS:
            raise ConfigError(f"low_autocorrelation takes 3 to {MOST_SIGNS} signs, not {count}")
        self.count = count
        if count in _LEAST_ENERGY:
            self.bounds = (Bound(count**2 / (2 * _LEAST_ENERGY[count]), "proved optimal (arXiv 1512.02475)"),)
        self.baseline = Bound(1.0, "a random sequence, about")

    def seeds(self, seed: int, count: int) -> list[Any]:
        """Return random signs."""
        drawn = np.random.default_rng(seed).integers(0, 2, (count, self.count))
        return [row.tolist() for row in 2 * drawn - 1]

    def verify(self, solution: Any) -> Verdict:
        """See :func:`verify`."""
        return verify(solution, self.count)

    def certificate(self, solution: Any) -> dict[str, Any]:
        """Return the merit factor as a fraction."""
        merit = merit_factor([int(sign) for sign in solution])
        return {"merit_factor": f"{merit.numerator}/{merit.denominator}", "how": "N^2 / (2 E) in integers"}


def _flip(state: Floats, strength: float, draw: np.random.Generator) -> Floats:
    """Turn some signs: more for more strength."""
    changed = state.copy()
    count = max(1, round(strength * len(state) / 3))
    changed[draw.choice(len(state), count, replace=False)] *= -1
    return changed


def _climb(state: Floats, strength: float, draw: np.random.Generator) -> Floats:
    """Turn the sign that lowers the energy most; more strength does it more often."""
    for _ in range(max(1, round(strength * 5))):
        turned = np.where(np.eye(len(state)), -state, state)
        energies = [_energy(row) for row in turned]
        best = int(np.argmin(energies))
        if energies[best] >= _energy(state):
            return state
        state = turned[best]
    return state


def _energy(state: Floats) -> float:
    return float((np.correlate(state, state, "full")[len(state) :] ** 2).sum())


def _shift(state: Floats, strength: float, draw: np.random.Generator) -> Floats:
    return np.roll(state, max(1, round(strength * len(state) / 4)))


def _mirror(state: Floats, strength: float, draw: np.random.Generator) -> Floats:
    """Make the end the mirror image of the beginning, so far as the strength says."""
    changed, half = state.copy(), max(1, round(strength * len(state) / 2))
    changed[len(state) - half :] = state[:half][::-1]
    return changed


class SequenceOperators(Operators):
    """Operator programs on signs; every program's result is a valid sequence."""

    def __init__(self, count: int = 35, words: int = 10) -> None:
        operators = {"flip": _flip, "climb": _climb, "shift": _shift, "mirror": _mirror}
        super().__init__(BinarySequences(count), operators, words)

    def solution(self, state: Floats) -> Any:
        """The signs, as whole numbers."""
        return [int(sign) for sign in state]

    def told(self, solution: Any) -> str:
        """The signs."""
        return "signs " + " ".join("p" if sign > 0 else "m" for sign in solution)
