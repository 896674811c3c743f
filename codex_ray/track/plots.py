"""The plots of a report: inline SVG that follows the page's light or dark colours, and loss.png.

Colours are drawn as placeholders that the page's style sheet fills in.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from codex_ray.track.metrics import Row
from codex_ray.track.progress import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 800  # drawn per curve; longer ones keep the least and the greatest of each stretch
SMOOTHING_SHARE = 0.03  # of the run, over which the smoothed curve averages
LOG_RATIO = 20.0  # a gain or norm that spans more is drawn on a logarithmic axis

# Placeholder colours in the SVG, and the page's variables that replace them.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005", "#0a0006")
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid"} | {
    color: f"--series-{index}" for index, color in enumerate(SERIES, 1)
}
# What loss.png uses instead, on white.
PRINTED = {INK: "#1d1d1f", MUTED: "#6b6b70", GRID: "#e3e2de", SERIES[0]: "#2b62b8", SERIES[1]: "#c4561a"}


@dataclass(frozen=True)
class Series:
    """One curve: steps, values, and how it is drawn."""

    label: str
    steps: list[float]
    values: list[float]
    smoothed: bool = False
    marked: bool = False


@dataclass(frozen=True)
class Plot:
    """One plot to draw, with the sentence that stands below it."""

    title: str
    caption: str
    series: list[Series] = field(default_factory=list)
    logarithmic: bool = False
    from_zero: bool = False


def plots_of(rows: Sequence[Row]) -> list[Plot]:
    """Choose the plots for a run's metrics; a plot without two points is left out."""
    plots = [
        _loss_plot(rows),
        Plot(
            "Validation bits per byte",
            "Held-out text.",
            [_series(rows, "validation_bits_per_byte", marked=True)],
        ),
        Plot(
            "Learning rate",
            "The rate of AdamW's parameters.",
            [_series(rows, "learning_rate")],
            from_zero=True,
        ),
        _norm_plot(rows),
        Plot(
            "Tokens per second",
            "Over all workers.",
            [_series(rows, "tokens_per_second", True)],
            from_zero=True,
        ),
        _mixing_plot(rows),
        _wait_plot(rows),
    ]
    return [plot for plot in plots if any(len(series.steps) > 1 for series in plot.series)]


def svg_of(plot: Plot) -> str:
    """Draw a plot as an SVG element to stand in a page."""
    with _style():
        drawing, axes = _figure(4.6, 2.7)
        _draw(axes, plot)
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


def write_loss_png(rows: Sequence[Row], path: Path) -> bool:
    """Draw training and validation loss to ``path``; False where there are not two points."""
    plot = _loss_plot(rows)
    if not any(len(series.steps) > 1 for series in plot.series):
        return False
    with _style():
        drawing, axes = _figure(8, 4.5, PRINTED)
        _draw(axes, plot, PRINTED)
        axes.set_title("Loss", loc="left", color=PRINTED[INK], fontsize=12)
        axes.set_ylabel("nats per token", color=PRINTED[MUTED])
        drawing.savefig(path, format="png", dpi=150, facecolor="white")
    return True


def downsample(
    steps: Sequence[float], values: Sequence[float], points: int = POINTS
) -> tuple[list[float], list[float]]:
    """Keep about ``points`` points, the least and the greatest of each stretch, and both ends."""
    count = len(values)
    if count <= points:
        return list(steps), list(values)
    kept = {0, count - 1}
    for part in range(points // 2):
        start, stop = part * count // (points // 2), (part + 1) * count // (points // 2)
        kept |= {
            min(range(start, stop), key=values.__getitem__),
            max(range(start, stop), key=values.__getitem__),
        }
    order = sorted(kept)
    return [steps[index] for index in order], [values[index] for index in order]


def smooth(values: Sequence[float]) -> list[float]:
    """Average over a window centred on each point, narrower near the start so as not to lag its fall."""
    count, half = len(values), round(SMOOTHING_SHARE * len(values) / 2)
    sums = [0.0, *itertools.accumulate(values)]
    result = []
    for index in range(count):
        before = min(half, index)
        start, stop = index - before, min(index + before + 1, count)
        result.append((sums[stop] - sums[start]) / (stop - start))
    return result


def _series(
    rows: Sequence[Row], name: str, smoothed: bool = False, marked: bool = False, label: str | None = None
) -> Series:
    points = [(row.get("step"), row.get(name)) for row in rows]
    numbers = [
        (float(x), float(y)) for x, y in points if isinstance(x, int | float) and isinstance(y, int | float)
    ]
    return Series(label or name, [x for x, _ in numbers], [y for _, y in numbers], smoothed, marked)


def _loss_plot(rows: Sequence[Row]) -> Plot:
    lost = sum(1 for row in rows if "loss" in row and row["loss"] is None)
    note = f" Steps without a finite loss: {lost}." if lost else ""
    training = _series(rows, "loss", smoothed=True, label="training")
    validation = _series(rows, "validation_loss", marked=True, label="validation")
    return Plot("Loss", f"Nats per token; the faint line is each step.{note}", [training, validation])


def _norm_plot(rows: Sequence[Row]) -> Plot:
    series = _series(rows, "grad_norm", smoothed=True)
    return Plot("Gradient norm", "Before clipping.", [series], logarithmic=_spans(series.values))


def _mixing_plot(rows: Sequence[Row]) -> Plot:
    names = sorted({name for row in rows for name in row if name.startswith("mixing/")})
    curves = [
        _series(rows, name, label=name.removeprefix("mixing/").replace("_", " "))
        for name in names[: len(SERIES)]
    ]
    values = [value for curve in curves for value in curve.values]
    return Plot("Hyper-connection gains", "Of all mixers multiplied.", curves, logarithmic=_spans(values))


def _wait_plot(rows: Sequence[Row]) -> Plot:
    shares = [
        {"step": row["step"], "share": 100 * float(wait) / float(whole)}
        for row in rows
        if isinstance(wait := row.get("data_seconds"), int | float)
        and isinstance(whole := row.get("step_seconds"), int | float)
        and whole > 0
        and "step" in row
    ]
    caption = "Share of a step's time spent waiting for its batch."
    return Plot("Data wait, %", caption, [_series(shares, "share", True)], from_zero=True)


def _spans(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) / min(values) > LOG_RATIO


def _style() -> AbstractContextManager[None]:
    import matplotlib

    return matplotlib.rc_context(
        {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "svg.hashsalt": "report"}
    )


def _figure(width: float, height: float, colors: Mapping[str, str] | None = None) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    look = colors or {}
    drawing = Figure(figsize=(width, height), layout="constrained")
    axes = drawing.add_subplot()
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(look.get(GRID, GRID))
    axes.tick_params(which="both", colors=look.get(MUTED, MUTED), length=0, pad=5)
    axes.grid(axis="y", color=look.get(GRID, GRID), linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: figure(round(value))))
    axes.set_xlabel("optimizer step", color=look.get(MUTED, MUTED), fontsize=8)
    return drawing, axes


def _draw(axes: Axes, plot: Plot, colors: Mapping[str, str] | None = None) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    look = colors or {}
    shown = [series for series in plot.series if series.steps]
    for series, placeholder in zip(shown, SERIES, strict=False):
        color = look.get(placeholder, placeholder)
        faint = series.smoothed and len(series.values) > 20
        steps, values = downsample(series.steps, series.values)
        marker = "o" if series.marked else None
        label = None if faint else series.label
        axes.plot(steps, values, color=color, linewidth=0.7 if faint else 1.6, alpha=0.3 if faint else 1,
                  marker=marker, markersize=3.5, label=label)  # fmt: skip
        if faint:
            steps, values = downsample(series.steps, smooth(series.values))
            axes.plot(steps, values, color=color, linewidth=1.6, label=series.label)
    if plot.logarithmic:
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: figure(float(value))))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    if plot.from_zero:
        axes.set_ylim(bottom=0)
    axes.set_xlim(0, 1.01 * max(series.steps[-1] for series in shown))
    if len(shown) > 1:
        axes.legend(frameon=False, labelcolor=look.get(INK, INK), fontsize=8, loc="best", handlelength=1.4)
