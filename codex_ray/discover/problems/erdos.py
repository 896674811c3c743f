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

from codex_ray.discover.drawings import draw_steps
from codex_ray.discover.problem import MINIMISE, Bound, Subject
from codex_ray.discover.problems.operators import Operators
from codex_ray.discover.problems.steps import TOLD, Floats, letters, soft_maximum, step_operators
from codex_ray.discover.problems.verdict import Verdict, numbers_of
from codex_ray.errors import ConfigError

LONGEST = 1000
MOST_DIRECT, DIRECT_STARTS = 100, 8
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


class Erdos(Subject):
    """The problem for a search; ``steps`` is how many steps its seeds have."""

    name = "erdos_min_overlap"
    direction = MINIMISE
    baseline = Bound(0.4, "best symmetric function of three steps")
    bounds = (
        Bound(0.380927, "Haugland 2016, 51 steps (arXiv 1609.08000)"),
        Bound(0.380924, "AlphaEvolve 2025, 95 steps"),
        Bound(0.3808753232, "TTT-Discover 2026, 600 steps (arXiv 2601.16175)"),
    )

    def __init__(self, steps: int = 48) -> None:
        if not 2 <= steps <= LONGEST:
            raise ConfigError(f"erdos_min_overlap takes 2 to {LONGEST} steps, not {steps}")
        self.steps = steps

    def seeds(self, seed: int, count: int) -> list[Any]:
        """Return step functions of 1/2 and noise, as the paper begins."""
        draw = np.random.default_rng(seed)
        drawn = draw.uniform(-0.4, 0.4, (count, self.steps))
        return [project(0.5 + row - row.mean()).tolist() for row in drawn]

    def verify(self, solution: Any) -> Verdict:
        """See :func:`verify`."""
        return verify(solution)

    def certificate(self, solution: Any) -> dict[str, Any]:
        """Return the bound as a fraction, of steps that are fractions."""
        steps = rational(solution)
        exact = exact_bound(steps)
        return {
            "bound": f"{exact.numerator}/{exact.denominator}",
            "bound_as_float": float(exact),
            "steps": [f"{step.numerator}/{step.denominator}" for step in steps],
            "how": "2/n times the largest overlap of steps with 1 - steps over whole shifts, in fractions",
        }

    def direct(self) -> tuple[float, str] | None:
        """Return the best of a few starts of sequential quadratic programming; None for many steps."""
        if self.steps > MOST_DIRECT:
            return None
        found = [optimised(np.asarray(one)) for one in self.seeds(0, DIRECT_STARTS)]
        best = min(verify(one).figure or math.inf for one in found)
        return best, f"SLSQP, best of {DIRECT_STARTS} starts"

    def draw(self, solution: Any) -> str:
        """Draw the function and its overlap."""
        steps = np.asarray(solution, dtype=np.float64)
        overlap = np.concatenate([[0.0], np.correlate(steps, 1 - steps, "full"), [0.0]]) * 2 / len(steps)
        return draw_steps(steps.tolist(), 2.0, overlap.tolist(), 2.0, ("h", "overlap at each shift"))


def optimised(start: Floats) -> list[float]:
    """Return steps that sequential quadratic programming makes of others, the bound as a variable."""
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    count = len(start)

    def room(point: Floats) -> Floats:
        steps = point[:-1]
        left: Floats = point[-1] - 2 * np.correlate(steps, 1 - steps, "full") / count
        return left

    def slopes(point: Floats) -> Floats:
        steps, wide = point[:-1], np.zeros(3 * count - 2)
        wide[count - 1 : 2 * count - 1] = 1 - point[:-1]
        ahead = np.zeros(3 * count - 2)
        ahead[count - 1 : 2 * count - 1] = steps
        lags = np.arange(1 - count, count)[:, None]
        places = np.arange(count)[None] + count - 1
        gradient = 2 / count * (wide[places - lags] - ahead[places + lags])
        return np.hstack([-gradient, np.ones((2 * count - 1, 1))])

    unit = np.append(np.zeros(count), 1.0)
    whole = np.append(np.ones(count), 0.0)
    found = minimize(
        lambda point: point[-1],
        np.append(start, bound(start.tolist())),
        jac=lambda point: unit,
        bounds=[(0.0, 1.0)] * count + [(0.0, 1.0)],
        constraints=[
            {"type": "ineq", "fun": room, "jac": slopes},
            {"type": "eq", "fun": lambda point: point[:-1].sum() - count / 2, "jac": lambda point: whole},
        ],
        method="SLSQP",
        options={"maxiter": 300},
    )
    steps: list[float] = project(np.clip(found.x[:-1], 0.0, 1.0)).tolist()
    return steps


def project(state: Floats) -> Floats:
    """Return the nearest steps within 0 to 1 whose sum is half their number.

    They are the state less one number, cut off at 0 and 1: their sum is linear in that number between the
    places at which a step reaches one of the ends.
    """
    ends = np.concatenate([state - 1.0, state])
    order = np.argsort(ends, kind="stable")
    ends = ends[order]
    within = np.cumsum(np.where(order < len(state), 1.0, -1.0))[:-1]  # steps that move, between two ends
    sums = len(state) - np.concatenate([[0.0], np.cumsum(within * np.diff(ends))])
    place = max(1, int(np.searchsorted(-sums, -len(state) / 2)))
    less = ends[place - 1] + (sums[place - 1] - len(state) / 2) / within[place - 1]
    projected: Floats = np.clip(state - less, 0.0, 1.0)
    return projected


def slope(state: Floats, sharpness: float) -> Floats:
    """Return the gradient of a soft maximum of the overlaps."""
    count, rest = len(state), 1 - state
    weights = soft_maximum(2 * np.correlate(state, rest, "full") / count, sharpness)
    from_rest = np.convolve(weights, rest)[count - 1 : 2 * count - 1]
    from_state = np.convolve(weights[::-1], state)[count - 1 : 2 * count - 1]
    gradient: Floats = 2 / count * (from_rest - from_state)
    return gradient


class ErdosOperators(Operators):
    """Operator programs for the problem: ``project`` alone restores what is asked of steps."""

    def __init__(self, steps: int = 48, words: int = 10) -> None:
        super().__init__(Erdos(steps), step_operators(slope, project), words)

    def told(self, solution: Any) -> str:
        """Steps and overlaps as letters, coarse."""
        steps = self.state(solution)
        overlap = 2 * np.correlate(steps, 1 - steps, "full") / len(steps)
        return f"steps {letters(steps, 0.0, 1.0, TOLD)} overlap {letters(overlap, 0.0, 0.5, TOLD)}"
