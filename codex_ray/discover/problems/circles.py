"""Circles in the unit square, none over another: the sum of their radii, to be made large."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from codex_ray.discover.problems.verdict import Verdict, numbers_of


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
