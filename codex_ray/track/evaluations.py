"""Tasks that were measured while a model was trained: the table and the curve of a run's report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codex_ray.track.metrics import read_metrics
from codex_ray.track.plots import Plot, Series
from codex_ray.track.progress import figure

FILE, PREFIX = "evaluation.jsonl", "evaluation/"
COLUMNS = ("task", "before", "after", "change", "95 % interval of it")


def task_rows(figures: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of the closing table, below :data:`COLUMNS`; none where no task was measured twice."""
    names = [name.split("/")[1] for name in figures if name.startswith(PREFIX) and name.endswith("/after")]
    rows: list[tuple[str, ...]] = []
    for name in names:
        found = {
            key: figures.get(f"{PREFIX}{name}/{key}")
            for key in ("before", "after", "change", "change_low", "change_high")
        }
        if found["change"] is None:
            rows.append((name, figure(found["before"]), figure(found["after"]), "", "other questions"))
            continue
        low, high = (f"{found[end]:+.3f}" for end in ("change_low", "change_high"))
        shown = (
            f"{found['before']:.3f}",
            f"{found['after']:.3f}",
            f"{found['change']:+.3f}",
            f"{low} to {high}",
        )
        rows.append((name, *shown))
    return rows


def task_plot(run_folder: Path) -> Plot | None:
    """Return the curves of all tasks, from before the first step on; None where there are no two points."""
    lines: list[Any] = read_metrics(run_folder / FILE)
    names = list(dict.fromkeys(name for line in lines for name in line["tasks"]))
    curves = []
    for name in names:
        found = [
            (float(line["step"]), line["tasks"][name]["value"]) for line in lines if name in line["tasks"]
        ]
        curves.append(Series(name, [step for step, _ in found], [value for _, value in found], marked=True))
    if not any(len(curve.steps) > 1 for curve in curves):
        return None
    return Plot("Tasks", "New against old, by the metric of each.", curves)
