"""The plots of a run's report, and loss.png."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from codex_ray.track.drawing import INK, MUTED, PLACEHOLDERS, PRINTED, SERIES, drawn, new_axes, to_svg
from codex_ray.track.metrics import Row
from codex_ray.track.progress import figure

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 800  # drawn per curve; longer ones keep the least and the greatest of each stretch
SMOOTHING_SHARE = 0.03  # of the run, over which the smoothed curve averages
LOG_RATIO = 20.0  # a gain or norm that spans more is drawn on a logarithmic axis


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
    stacked: bool = False
    axis: str = "optimizer step"


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
    with drawn():
        drawing, axes = _steps_axes(4.6, 2.7, PLACEHOLDERS, plot.axis)
        _draw(axes, plot, PLACEHOLDERS)
        return to_svg(drawing)


def write_loss_png(rows: Sequence[Row], path: Path) -> bool:
    """Draw training and validation loss to ``path``; False where there are not two points."""
    plot = _loss_plot(rows)
    if not any(len(series.steps) > 1 for series in plot.series):
        return False
    with drawn():
        drawing, axes = _steps_axes(8, 4.5, PRINTED)
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


def _steps_axes(
    width: float, height: float, colors: Mapping[str, str], axis: str = Plot.axis
) -> tuple[Figure, Axes]:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    drawing, axes = new_axes(width, height, colors)
    whole = axis == Plot.axis
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=whole))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: figure(round(value) if whole else value)))
    axes.set_xlabel(axis, color=colors[MUTED], fontsize=8)
    return drawing, axes


def _draw(axes: Axes, plot: Plot, colors: Mapping[str, str]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    # A curve without points keeps its colour, which is the same in every plot of a page.
    colored = [
        (series, colors.get(placeholder, placeholder))
        for series, placeholder in zip(plot.series, SERIES, strict=False)
        if series.steps
    ]
    shown = [series for series, _ in colored]
    handles: list[Artist] = []
    if plot.stacked:
        heights = [series.values for series in shown]
        handles += axes.stackplot(shown[0].steps, heights, colors=[color for _, color in colored])
    for series, color in () if plot.stacked else colored:
        faint = series.smoothed and len(series.values) > 20
        steps, values = downsample(series.steps, series.values)
        marker = "o" if series.marked else None
        width, alpha = (0.7, 0.3) if faint else (1.6, 1.0)
        (line,) = axes.plot(
            steps, values, color=color, linewidth=width, alpha=alpha, marker=marker, markersize=3.5
        )
        if faint:
            steps, values = downsample(series.steps, smooth(series.values))
            (line,) = axes.plot(steps, values, color=color, linewidth=1.6)
        handles.append(line)
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
        labels = [series.label for series in shown]
        axes.legend(
            handles, labels, frameon=False, labelcolor=colors[INK], fontsize=8, loc="best", handlelength=1.4
        )
