"""Autocorrelation inequalities: bounds from step functions on [-1/4, 1/4], n equal steps.

The first is ``max(f*f) / (integral of f)^2`` for f >= 0, to be made small. The second is
``||f*f||_2^2 / (||f*f||_1 ||f*f||_inf)``, to be made large; f*f is piecewise linear, so its norms are exact
from its values at the steps' borders.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codex_ray.discover.drawings import draw_steps
from codex_ray.discover.problem import MAXIMISE, MINIMISE, Bound, Subject
from codex_ray.discover.problems.operators import Operators
from codex_ray.discover.problems.steps import TOLD, Floats, letters, soft_maximum, step_operators
from codex_ray.discover.problems.verdict import Verdict, numbers_of
from codex_ray.errors import ConfigError

LONGEST = 100_000
HIGHEST = 1000.0
SMALLEST_SUM = 0.01
LONGEST_EXACT = 2000  # steps; the fractions of more take minutes
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


def exact_second_bound(f: Sequence[Fraction]) -> Fraction:
    """Return the second bound of rational steps, exactly."""
    count = len(f)
    convolved = [
        sum((f[i] * f[k - i] for i in range(max(0, k - count + 1), min(k + 1, count))), Fraction(0))
        for k in range(2 * count - 1)
    ]
    nodes = [Fraction(0), *convolved, Fraction(0)]
    square = sum((a * a + a * b + b * b for a, b in itertools.pairwise(nodes)), Fraction(0)) / 3
    return square / (sum(nodes, Fraction(0)) * max(nodes))


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


class _Autocorrelation(Subject):
    """What both inequalities share; ``steps`` is how many steps seeds have."""

    def __init__(self, steps: int = 48) -> None:
        if not 2 <= steps <= LONGEST:
            raise ConfigError(f"{self.name} takes 2 to {LONGEST} steps, not {steps}")
        self.steps = steps

    def seeds(self, seed: int, count: int) -> list[Any]:
        """Return step functions of 1 and noise."""
        drawn = np.random.default_rng(seed).uniform(0.6, 1.4, (count, self.steps))
        return [row.tolist() for row in drawn]

    def draw(self, solution: Any) -> str:
        """Draw the function and its autoconvolution."""
        steps = np.asarray(solution, dtype=np.float64)
        steps = steps / steps.mean()
        nodes = np.concatenate([[0.0], _convolved(steps), [0.0]]) / (2 * len(steps))
        return draw_steps(steps.tolist(), 0.5, nodes.tolist(), 0.5, ("f, of mean 1", "f * f"))


class FirstAutocorrelation(_Autocorrelation):
    """The first inequality for a search."""

    name = "autocorrelation_first"
    direction = MINIMISE
    baseline = Bound(2.0, "a constant function")
    bounds = (
        Bound(1.5097202, "Matolcsi and Vinuesa 2010, 208 steps (arXiv 0907.1379)"),
        Bound(1.5052940, "AlphaEvolve 2025, 600 steps"),
        Bound(1.5031636, "AlphaEvolve V2 2025, 1,319 steps"),
        Bound(1.5028629, "TTT-Discover 2026, 30,000 steps (arXiv 2601.16175)"),
    )

    def verify(self, solution: Any) -> Verdict:
        """See :func:`verify_first`."""
        return verify_first(solution)

    def certificate(self, solution: Any) -> dict[str, Any]:
        """Return the bound of the very floating-point steps as a fraction; not of very many."""
        return _certificate(solution, exact_first_bound, "2 n max(f*f) / (sum f)^2, in fractions")


class SecondAutocorrelation(_Autocorrelation):
    """The second inequality for a search."""

    name = "autocorrelation_second"
    direction = MAXIMISE
    baseline = Bound(2 / 3, "a constant function")
    bounds = (
        Bound(0.8962799, "AlphaEvolve 2025, 50 steps"),
        Bound(0.9015, "Boyer and Li 2025, 575 steps (arXiv 2506.16750)"),
        Bound(0.9591798, "TTT-Discover 2026, 50,000 steps (arXiv 2601.16175)"),
        Bound(0.9610211, "AlphaEvolve V2 2025, 50,000 steps"),
    )

    def verify(self, solution: Any) -> Verdict:
        """See :func:`verify_second`."""
        return verify_second(solution)

    def certificate(self, solution: Any) -> dict[str, Any]:
        """Return the bound of the very floating-point steps as a fraction; not of very many."""
        return _certificate(
            solution, exact_second_bound, "||f*f||_2^2 / (||f*f||_1 ||f*f||_inf), in fractions"
        )


def _certificate(solution: Any, bound: Callable[[list[Fraction]], Fraction], how: str) -> dict[str, Any]:
    steps = [Fraction(min(float(step), HIGHEST)) for step in solution]
    if len(steps) > LONGEST_EXACT:
        return {
            "how": f"recomputed in floating point: more than {LONGEST_EXACT} steps take long in fractions"
        }
    exact = bound(steps)
    return {"bound": f"{exact.numerator}/{exact.denominator}", "bound_as_float": float(exact), "how": how}


def first_slope(state: Floats, sharpness: float) -> Floats:
    """Return the gradient of a soft maximum of the first bound."""
    count, total = len(state), state.sum()
    convolved = np.convolve(state, state)
    scale = 2 * count / total**2
    weights = soft_maximum(scale * convolved, sharpness)
    gradient: Floats = scale * 2 * np.correlate(weights, state, "valid") - 2 * scale / total * (
        weights @ convolved
    )
    return gradient


def second_slope(state: Floats, sharpness: float) -> Floats:
    """Return minus the gradient of the second bound's logarithm, with a soft maximum as its highest value."""
    convolved = np.convolve(state, state)
    wide = np.concatenate([[0.0], convolved, [0.0]])
    square = (wide[:-1] ** 2 + wide[:-1] * wide[1:] + wide[1:] ** 2).sum()
    weights = soft_maximum(convolved / convolved.max(), sharpness)
    of_square = (4 * convolved + wide[:-2] + wide[2:]) / square
    each = of_square - 1 / convolved.sum() - weights / (weights @ convolved)
    gradient: Floats = -2 * np.correlate(each, state, "valid")
    return gradient


def project(state: Floats) -> Floats:
    """Return the steps without what is negative, of mean 1; a function of nothing becomes a constant."""
    positive = np.maximum(state, 0.0)
    return positive / positive.mean() if positive.sum() > SMALLEST_SUM else np.ones(len(state))


class _AutocorrelationOperators(Operators):
    def told(self, solution: Any) -> str:
        """Steps and their convolution as letters, coarse."""
        steps = self.state(solution)
        steps = steps / steps.mean()
        convolved = np.convolve(steps, steps) / len(steps)
        return f"steps {letters(steps, 0.0, 4.0, TOLD)} overlap {letters(convolved, 0.0, 1.0, TOLD)}"


class FirstOperators(_AutocorrelationOperators):
    """Operator programs for the first inequality."""

    def __init__(self, steps: int = 48, words: int = 10) -> None:
        super().__init__(FirstAutocorrelation(steps), step_operators(first_slope, project), words)


class SecondOperators(_AutocorrelationOperators):
    """Operator programs for the second inequality."""

    def __init__(self, steps: int = 48, words: int = 10) -> None:
        super().__init__(SecondAutocorrelation(steps), step_operators(second_slope, project), words)
