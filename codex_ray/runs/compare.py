"""``runs compare``: one page of several runs, made from what lies in their folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codex_ray.config import saved
from codex_ray.config.runs import CompareRuns
from codex_ray.config.tree import dotted
from codex_ray.files import read_json, write_text
from codex_ray.runs.state import find_run, states
from codex_ray.track.environment import masked
from codex_ray.track.metrics import Row, read_run
from codex_ray.track.page import build_page, columns_table, figure_card, header, section
from codex_ray.track.plots import Plot, Series, svg_of
from codex_ray.track.progress import Progress, figure

# By what a loss is drawn: the axis in words, and the plot's title.
AXES = (
    ("step", "optimizer step", "Loss by step"),
    ("tokens", "million tokens", "Loss by tokens"),
    ("hours", "hours of training", "Loss by time"),
)
WHERE = ("name", "runs", "resume", "corpus")  # settings that say where a run is, not what


@dataclass(frozen=True)
class Run:
    """What is compared of one run."""

    name: str
    rows: list[Row]
    settings: dict[str, str]
    summary: dict[str, Any]


def compare_verb(settings: CompareRuns, progress: Progress | None = None) -> Path:
    """Write the page and print where it is.

    Raises:
        CodexRayError: there is no such run, one is damaged, or the page cannot be written.
    """
    folders = [find_run(name, settings.runs) for name in settings.names]
    names = _names(folders)
    runs = [_read(name, folder) for name, folder in zip(names, folders, strict=True)]
    stand = states(folders)
    facts = [f"{name}: {stand[folder]}" for name, folder in zip(names, folders, strict=True)]
    plots = [_loss_plot(runs, *axis) for axis in AXES] + [_validation_plot(runs)]
    cards = [_card(plot) for plot in plots if any(len(series.steps) > 1 for series in plot.series)]
    body = [
        header("comparison", " · ".join(names), facts),
        section("Training", f'<div class="plots">{"".join(cards)}</div>' if cards else ""),
        section("Settings that differ", _table("setting", _differing([run.settings for run in runs]), names)),
        section("Closing figures", _table("figure", _figures([run.summary for run in runs]), names)),
    ]
    path = Path(settings.output).expanduser()
    write_text(path, build_page("comparison", body))
    with Progress("off") if progress is None else progress as shown:
        shown.table("comparison", [("runs", ", ".join(names)), ("report", str(path.absolute()))])
    return path


def _read(name: str, folder: Path) -> Run:
    config, summary = folder / "config.yaml", folder / "summary.json"
    return Run(
        name,
        read_run(folder),
        {key: masked(str(value)) for key, value in dotted(saved.read(config)).items()}
        if config.exists()
        else {},
        read_json(summary, "the summary") if summary.exists() else {},
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """Call runs by their folders' names, or by their paths where names repeat."""
    names = [folder.name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _places(rows: Sequence[Row], axis: str) -> list[float]:
    """Where each row stands on an axis; hours are of the steps themselves, without what is between."""
    if axis == "step":
        return [float(row["step"] or 0) for row in rows]
    if axis == "tokens":
        return [float(row["tokens"] or 0) / 1e6 for row in rows]
    places, hours, step = [], 0.0, 0
    for row in rows:
        now = int(row["step"] or 0)
        hours += (now - step) * float(row["step_seconds"] or 0) / 3600  # a row may stand for several steps
        step = now
        places.append(hours)
    return places


def _loss_plot(runs: Sequence[Run], axis: str, words: str, title: str) -> Plot:
    curves = []
    for run in runs:
        points = [
            (place, float(loss))
            for place, row in zip(_places(run.rows, axis), run.rows, strict=True)
            if isinstance(loss := row.get("loss"), int | float)
        ]
        curves.append(Series(run.name, [x for x, _ in points], [y for _, y in points], smoothed=True))
    return Plot(title, "Nats per token; the faint lines are each step.", curves, axis=words)


def _validation_plot(runs: Sequence[Run]) -> Plot:
    curves = []
    for run in runs:
        measured = [row for row in run.rows if isinstance(row.get("validation_loss"), int | float)]
        losses = [float(row["validation_loss"] or 0) for row in measured]
        curves.append(Series(run.name, _places(measured, "step"), losses, marked=True))
    return Plot("Validation loss", "Held-out rows, nats per token.", curves)


def _card(plot: Plot) -> str:
    ends = [f"{curve.label} {figure(curve.values[-1])}" for curve in plot.series if curve.values]
    return figure_card(
        svg_of(plot), plot.title, "", plot.caption, f"{plot.title}; at the end: {', '.join(ends)}"
    )


def _differing(settings: Sequence[Mapping[str, str]]) -> list[tuple[str, ...]]:
    keys = sorted({key for one in settings for key in one if key not in WHERE})
    rows = [(key, *(one.get(key, "-") for one in settings)) for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def _figures(summaries: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    names = list(dict.fromkeys(name for one in summaries for name in one))
    return [
        (name.replace("_", " "), *(_shown(one.get(name)) for one in summaries))
        for name in names
        if not name.startswith(("source/", "startup/"))
    ]


def _table(first: str, rows: Sequence[tuple[str, ...]], names: Sequence[str]) -> str:
    return columns_table((first, *names), rows)


def _shown(value: Any) -> str:
    return figure(value) if value is None or isinstance(value, int | float | str) else str(value)
