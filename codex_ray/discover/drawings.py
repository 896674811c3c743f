"""Drawings of solutions, as SVG for a page: step functions with their overlap, circles in a square."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def draw_steps(
    steps: Sequence[float], width: float, other: Sequence[float], reach: float, labels: tuple[str, str]
) -> str:
    """Draw a step function, and below it a function of shifts whose largest value counts.

    Args:
        steps: values of equal steps over ``width``.
        width: of the interval, from 0.
        other: values at equal shifts from ``-reach`` to ``reach``.
        reach: the largest shift.
        labels: of both.
    """
    from matplotlib.figure import Figure

    from codex_ray.track.drawing import GRID, INK, MUTED, SERIES, drawn, to_svg

    with drawn():
        drawing = Figure(figsize=(4.6, 4.2), layout="constrained")
        upper, lower = drawing.subplots(2, 1)
        edges = np.linspace(0, width, len(steps) + 1)
        upper.stairs(list(steps), edges, fill=True, color=SERIES[0], alpha=0.25)
        upper.stairs(list(steps), edges, color=SERIES[0], linewidth=1.2)
        shifts = np.linspace(-reach, reach, len(other))
        lower.plot(shifts, list(other), color=SERIES[1], linewidth=1.2)
        lower.axhline(max(other), color=MUTED, linewidth=0.8, linestyle=":")
        for axes, label in zip((upper, lower), labels, strict=True):
            axes.set_title(label, color=INK, fontsize=9, loc="left")
            axes.tick_params(which="both", colors=MUTED, length=0, pad=5)
            axes.set_ylim(bottom=0)
            for spine in axes.spines.values():
                spine.set_color(GRID)
        return to_svg(drawing)


def draw_circles(centres: Sequence[Sequence[float]], radii: Sequence[float]) -> str:
    """Draw circles in the unit square."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle, Rectangle

    from codex_ray.track.drawing import GRID, SERIES, drawn, to_svg

    with drawn():
        drawing = Figure(figsize=(4.2, 4.2), layout="constrained")
        axes = drawing.add_subplot()
        axes.add_patch(Rectangle((0, 0), 1, 1, fill=False, edgecolor=GRID, linewidth=1.0))
        for (x, y), radius in zip(centres, radii, strict=True):
            axes.add_patch(Circle((x, y), radius, facecolor="none", edgecolor=SERIES[0], linewidth=1.0))
        axes.set_aspect("equal")
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.01, 1.01)
        axes.axis("off")
        return to_svg(drawing)
