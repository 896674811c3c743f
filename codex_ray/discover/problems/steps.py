"""Operators on step functions, for problems whose worst place is a maximum over shifts.

A step function's figure is the largest of many numbers that are quadratic in its steps; the numbers and their
gradients are all that differs from problem to problem.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from codex_ray.discover.problems.operators import Operator

Floats = NDArray[np.float64]
Slope = Callable[[Floats, float], Floats]
"""Gradient of the figure at a state: of a soft maximum of the given sharpness, infinite for the maximum."""

SHARPNESS = 300.0
TOLD = 24  # letters of a function, at most
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def step_operators(slope: Slope, project: Callable[[Floats], Floats]) -> dict[str, Operator]:
    """Return a problem's operators, given its figure's gradient and what restores its constraints."""
    return {
        "descend": descent(slope, SHARPNESS),
        "lag": descent(slope, math.inf),
        "smooth": smooth,
        "noise": noise,
        "mirror": mirror,
        "sharpen": sharpen,
        "shift": shift,
        "project": lambda state, strength, draw: project(state),
    }


def soft_maximum(numbers: Floats, sharpness: float) -> Floats:
    """Return weights that add up to 1: of the largest alone where the sharpness is infinite."""
    if math.isinf(sharpness):
        weights = np.zeros(len(numbers))
        weights[int(numbers.argmax())] = 1.0
        return weights
    shares = np.exp(sharpness * (numbers - numbers.max()))
    weights_of: Floats = shares / shares.sum()
    return weights_of


def descent(slope: Slope, sharpness: float) -> Operator:
    """Step against the gradient; the strength is the largest change of a step."""

    def step(state: Floats, strength: float, draw: np.random.Generator) -> Floats:
        gradient = slope(state, sharpness)
        largest = float(np.abs(gradient).max())
        return state - strength * gradient / largest if largest > 0 else state

    return step


def smooth(state: Floats, strength: float, draw: np.random.Generator) -> Floats:
    """Move each step towards its neighbours' mean."""
    return state + strength * (_neighbours(state) - state)


def sharpen(state: Floats, strength: float, draw: np.random.Generator) -> Floats:
    """Move each step away from its neighbours' mean."""
    return state - strength * (_neighbours(state) - state)


def noise(state: Floats, strength: float, draw: np.random.Generator) -> Floats:
    """Add normal noise."""
    return state + strength * draw.standard_normal(len(state))


def mirror(state: Floats, strength: float, draw: np.random.Generator) -> Floats:
    """Move towards the mirror image."""
    return state + strength * (state[::-1] - state)


def shift(state: Floats, strength: float, draw: np.random.Generator) -> Floats:
    """Turn the steps by up to a quarter of their number."""
    return np.roll(state, max(1, round(strength * len(state) / 4)))


def _neighbours(state: Floats) -> Floats:
    wide = np.concatenate([state[:1], state, state[-1:]])
    means: Floats = (wide[:-2] + state + wide[2:]) / 3
    return means


def letters(numbers: Floats, low: float, high: float, count: int) -> str:
    """Return numbers as ``count`` letters, a to z from ``low`` to ``high``: means of neighbours."""
    means = np.array([part.mean() for part in np.array_split(numbers, min(count, len(numbers)))])
    places = np.clip((means - low) / (high - low), 0.0, 1.0) * (len(_LETTERS) - 1)
    return " ".join(_LETTERS[int(place)] for place in np.rint(places))
