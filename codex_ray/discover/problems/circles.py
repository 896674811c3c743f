"""Circles in the unit square, none over another: the sum of their radii, to be made large."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from codex_ray.discover.drawings import draw_circles
from codex_ray.discover.problem import MAXIMISE, Bound, Subject
from codex_ray.discover.problems.operators import STRENGTHS, Floats, Operators
from codex_ray.discover.problems.steps import letters
from codex_ray.discover.problems.verdict import Verdict, numbers_of
from codex_ray.errors import ConfigError

MOST_CIRCLES = 200


def slack(centres: list[list[float]], radii: list[float]) -> Fraction:
    """Return how much room the tightest place leaves, exactly: below zero is how far circles overlap.

    Of two circles it is ``dist^2 - (r + s)^2``, which is of the distance's sign without its root; of a wall
    it is the distance minus the radius.
    """
    points = [(Fraction(x), Fraction(y), Fraction(r)) for (x, y), r in zip(centres, radii, strict=True)]
    least = min(min(x - r, y - r, 1 - x - r, 1 - y - r) for x, y, r in points)
    for index, (x, y, r) in enumerate(points):
        for other_x, other_y, other_r in points[:index]:
            least = min(least, (x - other_x) ** 2 + (y - other_y) ** 2 - (r + other_r) ** 2)
    return least


def overlap(centres: list[list[float]], radii: list[float]) -> float:
    """Return by how much circles reach over one another or the walls, at most; 0 or less where none does."""
    worst = max(max(r - x, r - y, x + r - 1, y + r - 1) for (x, y), r in zip(centres, radii, strict=True))
    for index, ((x, y), r) in enumerate(zip(centres, radii, strict=True)):
        for (other_x, other_y), other_r in zip(centres[:index], radii[:index], strict=True):
            worst = max(worst, r + other_r - math.hypot(x - other_x, y - other_y))
    return worst


def verify(found: Any, count: int, tolerance: float = 0.0) -> Verdict:
    """Grade centres and radii (any third item, a claimed sum, is ignored); reward and value are the sum.

    Args:
        found: ``[centres, radii]``, centres as pairs.
        count: circles wanted.
        tolerance: overlap that is let pass. At 0 the check is in exact arithmetic on the numbers given.
    """
    if not isinstance(found, (list, tuple)) or len(found) not in (2, 3):
        return Verdict.refused("centres and radii are wanted")
    radii = numbers_of(found[1], count, count)
    if isinstance(radii, str):
        return Verdict.refused(f"radii: {radii}")
    if not isinstance(found[0], (list, tuple)) or len(found[0]) != count:
        return Verdict.refused(f"{count} centres are wanted")
    centres = []
    for place, pair in enumerate(found[0]):
        point = numbers_of(pair, 2, 2)
        if isinstance(point, str):
            return Verdict.refused(f"centre {place}: {point}")
        centres.append(point)
    if min(radii) < 0:
        return Verdict.refused("a radius is negative")
    apart = slack(centres, radii) >= 0 if tolerance == 0 else overlap(centres, radii) <= tolerance
    if not apart:
        return Verdict.refused(f"circles reach {overlap(centres, radii):.3g} over one another or the walls")
    total = math.fsum(radii)
    return Verdict(valid=True, reward=total, value=total, figure=total)


class Circles(Subject):
    """The problem for a search: ``count`` circles, no overlap at all allowed."""

    direction = MAXIMISE

    def __init__(self, count: int = 26) -> None:
        if not 2 <= count <= MOST_CIRCLES:
            raise ConfigError(f"circle_packing takes 2 to {MOST_CIRCLES} circles, not {count}")
        self.count, self.name = count, f"circle_packing_{count}"
        self.baseline, self.bounds = _KNOWN.get(count, (None, ()))

    def seeds(self, seed: int, count: int) -> list[Any]:
        """Return random centres with the radii that are best for them."""
        draw = np.random.default_rng(seed)
        return [packed(draw.uniform(0.05, 0.95, (self.count, 2))) for _ in range(count)]

    def verify(self, solution: Any) -> Verdict:
        """See :func:`verify`; with a tolerance of 0."""
        return verify(solution, self.count)

    def certificate(self, solution: Any) -> dict[str, Any]:
        """Return the exact slack, and what the sum is under tolerances of 0 and 1e-12."""
        centres, radii = solution[0], solution[1]
        exact, total = slack(centres, radii), sum(map(Fraction, radii))
        return {
            "least_slack": f"{exact.numerator}/{exact.denominator}",
            "sum_of_radii": f"{total.numerator}/{total.denominator}",
            "sum_at_tolerance_0": verify(solution, self.count).figure,
            "sum_at_tolerance_1e-12": verify(solution, self.count, 1e-12).figure,
            "how": "dist^2 - (r + s)^2 of every two circles, and all distances from walls, in fractions",
        }

    def draw(self, solution: Any) -> str:
        """Draw the circles."""
        return draw_circles(solution[0], solution[1])


_KNOWN = {
    26: (
        Bound(2.5 + (math.sqrt(2) - 1) / 10, "a grid of 5 by 5 and one in a gap"),
        (
            Bound(2.634, "best by hand"),
            Bound(2.6358627564, "AlphaEvolve 2025"),
            Bound(2.635983, "ThetaEvolve and TTT-Discover, at a tolerance"),
        ),
    ),
    32: (
        Bound(8 / 3, "32 cells of a grid of 6 by 6"),
        (
            Bound(2.936, "best by hand"),
            Bound(2.9379445262, "AlphaEvolve 2025"),
            Bound(2.939572, "AlphaEvolve V2 and TTT-Discover, at a tolerance"),
        ),
    ),
}


def best_radii(centres: Floats) -> tuple[Floats, Floats]:
    """Return the radii of the largest sum for given centres, [n], and how the sum rises with them, [n, 2].

    A linear program; its dual values give the gradient.
    """
    from scipy.optimize import linprog  # type: ignore[import-untyped]

    count = len(centres)
    first, second = np.triu_indices(count, 1)
    between = centres[first] - centres[second]
    apart = np.hypot(between[:, 0], between[:, 1])
    pairs = np.zeros((len(first), count))
    pairs[np.arange(len(first)), first] = pairs[np.arange(len(first)), second] = 1.0
    edges = np.concatenate([centres, 1 - centres], axis=1)  # left, lower, right, upper
    walls = np.repeat(np.eye(count), 4, axis=0)
    found = linprog(
        -np.ones(count), np.vstack([pairs, walls]), np.concatenate([apart, edges.ravel()]), method="highs"
    )
    if found.x is None:  # no radius fits a centre outside
        return np.zeros(count), np.zeros((count, 2))
    duals = -found.ineqlin.marginals
    force = np.zeros((count, 2))
    along = between / np.maximum(apart, 1e-12)[:, None] * duals[: len(first), None]
    np.add.at(force, first, along)
    np.add.at(force, second, -along)
    at_walls = duals[len(first) :].reshape(count, 4)
    return np.maximum(found.x, 0.0), force + at_walls[:, :2] - at_walls[:, 2:]


def packed(centres: Floats) -> list[Any]:
    """Return centres with the best radii that leave exactly no overlap."""
    radii, _ = best_radii(centres)
    points = centres.tolist()
    for shrunk in (0.0, 1e-15, 1e-14, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8):
        kept = np.maximum(radii - shrunk, 0.0).tolist()
        if slack(points, kept) >= 0:
            return [points, kept]
    return [points, radii.tolist()]  # a centre outside: the verifier says so


def _nudge(state: Floats, strength: float, draw: np.random.Generator) -> Floats:
    return state + 0.1 * strength * draw.standard_normal(state.shape)


def _push(state: Floats, strength: float, draw: np.random.Generator) -> Floats:
    """Move centres the way that the sum of radii rises."""
    _, force = best_radii(state)
    largest = np.abs(force).max()
    return state + 0.1 * strength * force / largest if largest > 0 else state


def _jump(state: Floats, strength: float, draw: np.random.Generator) -> Floats:
    moved = state.copy()
    moved[int(draw.integers(len(state)))] += strength * draw.standard_normal(2)
    return moved


def _refill(state: Floats, strength: float, draw: np.random.Generator) -> Floats:
    """Move the circle of the smallest radius into the largest gap, or so far towards it."""
    radii, _ = best_radii(state)
    least = int(radii.argmin())
    places = draw.uniform(0, 1, (256, 2))
    room = np.minimum(places, 1 - places).min(axis=1)
    for index in range(len(state)):
        if index != least:
            room = np.minimum(room, np.hypot(*(places - state[index]).T) - radii[index])
    moved = state.copy()
    moved[least] += min(1.0, strength / STRENGTHS[-1]) * (places[int(room.argmax())] - moved[least])
    return moved


def _spread(state: Floats, strength: float, draw: np.random.Generator) -> Floats:
    """Move each centre away from its nearest neighbour."""
    between = state[:, None] - state[None]
    apart = np.hypot(between[..., 0], between[..., 1]) + np.eye(len(state)) * 9
    near = apart.argmin(axis=1)
    rows = np.arange(len(state))
    away: Floats = between[rows, near] / np.maximum(apart[rows, near], 1e-12)[:, None]
    return state + 0.1 * strength * away


def _clamp(state: Floats, strength: float, draw: np.random.Generator) -> Floats:
    return np.clip(state, 0.0, 1.0)


class CircleOperators(Operators):
    """Operator programs on centres; radii are the best for them, by a linear program."""

    def __init__(self, count: int = 26, words: int = 10) -> None:
        operators = {
            "push": _push,
            "nudge": _nudge,
            "jump": _jump,
            "refill": _refill,
            "spread": _spread,
            "clamp": _clamp,
        }
        super().__init__(Circles(count), operators, words)

    def state(self, solution: Any) -> Floats:
        """The centres."""
        return np.asarray(solution[0], dtype=np.float64)

    def solution(self, state: Floats) -> Any:
        """Centres and the best radii."""
        return packed(state)

    def told(self, solution: Any) -> str:
        """Radii as letters, row by row."""
        order = sorted(
            range(len(solution[1])),
            key=lambda place: (round(solution[0][place][1] * 5), solution[0][place][0]),
        )
        radii = np.array([solution[1][place] for place in order])
        return f"radii {letters(radii, 0.0, 0.2, len(radii))}"


class TwentySix(CircleOperators):
    """Of 26 circles."""

    def __init__(self, words: int = 10) -> None:
        super().__init__(26, words)


class ThirtyTwo(CircleOperators):
    """Of 32 circles."""

    def __init__(self, words: int = 10) -> None:
        super().__init__(32, words)
