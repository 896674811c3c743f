"""Drawings of a page: inline SVG that follows the page's light or dark colours.

Colours are drawn as placeholders that the page's style sheet fills in.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Placeholder colours in the SVG, and the page's variables that replace them.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005", "#0a0006")
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid"} | {
    color: f"--series-{index}" for index, color in enumerate(SERIES, 1)
}
PLACEHOLDERS = {color: color for color in VARIABLES}
# What an image file uses instead, on white.
PRINTED = {INK: "#1d1d1f", MUTED: "#6b6b70", GRID: "#e3e2de", SERIES[0]: "#2b62b8", SERIES[1]: "#c4561a"}


def drawn() -> AbstractContextManager[None]:
    """Make Matplotlib draw, within this context, as pages want it: text stays text, ids are the same."""
    import matplotlib

    return matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.size": 9,
            "svg.hashsalt": "report",
            "text.parse_math": False,  # names may hold dollar signs
        }
    )


def new_axes(width: float, height: float, colors: Mapping[str, str]) -> tuple[Figure, Axes]:
    """Return an empty drawing of ``width`` by ``height`` inches with horizontal lines only."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(width, height), layout="constrained")
    axes = drawing.add_subplot()
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(colors[GRID])
    axes.tick_params(which="both", colors=colors[MUTED], length=0, pad=5)
    axes.grid(axis="y", color=colors[GRID], linewidth=0.8)
    axes.set_axisbelow(True)
    return drawing, axes


def to_svg(drawing: Figure) -> str:
    """Return a drawing in placeholder colours as an SVG element to stand in a page."""
    buffer = io.StringIO()
    drawing.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the names repeat on a page, and nothing refers to them
    # The page sets the type and the line ends: a style element in here would rule the whole page.
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>| font-family: [^;]*;", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
    svg = svg.replace("xlink:href", "href")
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return svg
