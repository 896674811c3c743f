"""A scaling study in the sweep's report: the curve with its band, and what the next size would reach."""

from __future__ import annotations

import numpy as np

from codex_ray.track.drawing import MUTED, PLACEHOLDERS, SERIES, drawn, new_axes, to_svg
from codex_ray.track.page import facts_table, figure_card, section
from codex_ray.track.progress import figure
from codex_ray.tune.scaling import SIZE, Study

RUN_IT = ("run it", "codex-ray pretrain --config next.yaml")


def facts(study: Study) -> list[tuple[str, str]]:
    """Return the fit and the prediction in words."""
    curve, (low, high) = study.curve, study.interval(study.compute)
    shallow, steep = study.power_interval()
    return [
        ("loss", f"{curve.floor:.3f} + {curve.factor:.3f} * (C / {curve.unit:.3g} FLOPs)^-{curve.power:.3f}"),
        ("power, 90 % of refits", f"{shallow:.3f} to {steep:.3f}"),
        *((key, figure(value)) for key, value in study.values.items()),
        ("compute", f"{study.compute:.3g} FLOPs"),
        ("loss to expect", f"{curve.at(study.compute):.3f} ({low:.3f} to {high:.3f})"),
    ]


def ladder_section(study: Study, metric: str) -> str:
    """Return the study as a section of a page."""
    note = (
        "The best trial of each size, and L = E + A C^-alpha through them; shaded: 90 % of the fits to "
        "resampled residuals. A few small sizes say little about far larger ones."
    )
    card = figure_card(_drawing(study, metric), "Loss against compute", "", note, _label(study))
    return section("Scaling", f'<div class="plots">{card}</div>{facts_table([*facts(study), RUN_IT])}')


def _label(study: Study) -> str:
    points = ", ".join(f"{SIZE} {size}: {loss:.3f} at {compute:.3g}" for size, compute, loss in study.points)
    return f"{points}; next {study.curve.at(study.compute):.3f} at {study.compute:.3g} FLOPs"


def _drawing(study: Study, metric: str) -> str:
    computes = np.geomspace(study.points[0][1], study.compute, 60)
    bands = np.array([study.interval(compute) for compute in computes])
    with drawn():
        drawing, axes = new_axes(4.6, 2.9, PLACEHOLDERS)
        axes.set_xscale("log")
        axes.fill_between(computes, bands[:, 0], bands[:, 1], color=SERIES[0], alpha=0.15, linewidth=0)
        axes.plot(computes, [study.curve.at(compute) for compute in computes], color=SERIES[0], linewidth=1.4)
        axes.plot(
            [point[1] for point in study.points],
            [point[2] for point in study.points],
            "o",
            color=SERIES[0],
            markersize=4,
        )
        low, high = study.interval(study.compute)
        expected = study.curve.at(study.compute)
        error = [[max(0.0, expected - low)], [max(0.0, high - expected)]]
        axes.errorbar([study.compute], [expected], yerr=error, fmt="o", color=MUTED, markersize=4, capsize=3)
        for size, compute, loss in study.points:
            axes.annotate(
                str(size), (compute, loss), xytext=(4, 4), textcoords="offset points", color=MUTED, fontsize=7
            )
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0e}".replace("+", ""))
        axes.set_xlabel("compute, FLOPs", color=MUTED)
        axes.set_ylabel(metric.replace("_", " "), color=MUTED)
        return to_svg(drawing)
