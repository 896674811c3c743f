"""The report of a sweep: its trials against tokens, side by side, which settings mattered, and the best."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from codex_ray.config.saved import dumps
from codex_ray.config.sweep import Sweep
from codex_ray.files import write_text
from codex_ray.track.drawing import GRID, INK, MUTED, PLACEHOLDERS, SERIES, drawn, new_axes, to_svg
from codex_ray.track.page import build_page, columns_table, escape, figure_card, header, section, tiles
from codex_ray.track.plots import Plot, Series, svg_of
from codex_ray.track.progress import figure
from codex_ray.track.run_folder import RunFolder
from codex_ray.tune.population import ancestry
from codex_ray.tune.records import FAILED, GIVEN_UP, Records, TrialRecord, shown
from codex_ray.tune.scaling import Study
from codex_ray.tune.scaling_report import ladder_section
from codex_ray.tune.space import Axis, Space, trial_settings

CURVES = 12  # drawn in colours of their own; the other trials are listed


def write_report(
    settings: Sweep, space: Space, run: RunFolder, records: Records, ladder: Study | None = None
) -> None:
    """Write report.html of a sweep's trials, with a scaling study where they are a ladder."""
    metric = settings.sweep.metrics[0]
    ranked = records.ranked()
    best = ranked[0]
    states = [trial.state for trial in records]
    facts = [
        (figure(best.final(metric)), f"best {metric.replace('_', ' ')}"),
        (f"{len(records)}", "trials"),
        (f"{states.count(GIVEN_UP)}", "given up early"),
        (f"{states.count(FAILED)}", "failed"),
        (f"{records.tokens / 1e6:,.1f} M", "tokens, all trials"),
    ]
    cards = [_curves(metric, ranked)]
    if len(ranked) > 1:
        cards.append(_parallel(space, metric, ranked))
        if importances := importance(space, settings, ranked):
            cards.append(_importance(importances))
    if len(settings.sweep.metrics) > 1:
        cards.append(_front(settings.sweep.metrics, records))
    body = [
        header("sweep", run.name, [settings.base, settings.sweep.search, settings.sweep.scheduler]),
        tiles(facts),
        ladder_section(ladder, metric) if ladder is not None else "",
        section("Trials", f'<div class="plots">{"".join(cards)}</div>'),
        section("All trials, best first", _table(settings, records)),
        *_history(settings, records, best),
        section(
            "The best trial's settings",
            f"<pre>{escape(dumps(trial_settings(settings, best.values)))}</pre>",
            f"codex-ray {settings.base} --config best.yaml",
        ),
    ]
    write_text(run.report, build_page(run.name, body))


def importance(space: Space, settings: Sweep, ranked: Sequence[TrialRecord]) -> dict[str, float]:
    """Return each setting's share in what the leading metric came to (PED-ANOVA, arXiv 2304.10255).

    Only settings that every trial has are compared; nothing where there are too few trials for that.
    """
    import optuna
    from optuna.exceptions import OptunaError

    from codex_ray.tune.search import directions, optuna_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    always = [axis for axis in space.axes if not axis.when]
    study = optuna.create_study(directions=directions(settings.sweep.modes[:1]))
    study.add_trials([optuna_trial(space, settings.sweep, trial, leading=True) for trial in ranked])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of trials that all came to the same
            found = optuna.importance.get_param_importances(
                study,
                evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
                params=[axis.key for axis in always],
            )
    except (OptunaError, ValueError, RuntimeError):
        return {}
    return {key: float(value) for key, value in found.items() if math.isfinite(value)}


def _curves(metric: str, ranked: Sequence[TrialRecord]) -> str:
    series = [
        Series(
            trial.name,
            [result["tokens"] / 1e6 for result in trial.results],
            [result[metric] for result in trial.results],
            marked=True,
        )
        for trial in ranked[:CURVES]
    ]
    left = len(ranked) - len(series)
    caption = f"The best {len(series)} trials" + (f"; {left} more are in the table." if left else ".")
    plot = Plot(metric.replace("_", " "), caption, series, axis="million tokens")
    ends = ", ".join(f"{trial.name} {figure(trial.final(metric))}" for trial in ranked[:CURVES])
    return figure_card(svg_of(plot), plot.title, "", caption, f"{plot.title}; at the end: {ends}")


def _parallel(space: Space, metric: str, ranked: Sequence[TrialRecord]) -> str:
    """Draw parallel coordinates: an axis for each setting and one for the metric, a line for each trial."""
    columns: list[tuple[str, list[float | None], list[tuple[float, str]]]] = [
        (axis.key, *_column(axis, ranked)) for axis in space.axes
    ]
    finals = [trial.final(metric) for trial in ranked]
    low, high = min(finals), max(finals)
    places: list[float | None] = [_place(value, low, high) for value in finals]
    columns.append((metric, places, [(0.0, figure(low)), (1.0, figure(high))]))
    with drawn():
        drawing, axes = new_axes(1.6 * len(columns) + 1.4, 3.0, PLACEHOLDERS)
        axes.grid(visible=False)
        for place, (_, _, ticks) in enumerate(columns):
            axes.axvline(place, color=GRID, linewidth=0.8)
            for height, label in ticks:
                axes.annotate(
                    label, (place, height), xytext=(3, 2), textcoords="offset points", color=MUTED, fontsize=7
                )
        for number, trial in reversed(list(enumerate(ranked))):
            found = [(x, ys[number]) for x, (_, ys, _) in enumerate(columns)]
            points = [(x, y) for x, y in found if y is not None]
            lead, dashed = number == 0, trial.state == GIVEN_UP
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                color=SERIES[0] if lead else MUTED,
                linewidth=2.0 if lead else 0.9,
                alpha=1.0 if lead else 0.6,
                linestyle=":" if dashed else "-",
            )
        axes.set_xticks(range(len(columns)), [name.replace(".", ".\n") for name, _, _ in columns], color=INK)
        axes.set_yticks([])
        svg = to_svg(drawing)
    caption = "A line for each trial, the best in colour; dotted: given up early."
    return figure_card(
        svg, "Settings and outcome", "", caption, f"{len(ranked)} trials over {len(columns)} axes"
    )


def _column(axis: Axis, ranked: Sequence[TrialRecord]) -> tuple[list[float | None], list[tuple[float, str]]]:
    """Return where each trial stands on an axis, from 0 to 1, and the axis's labels."""
    values = [trial.values.get(axis.key) for trial in ranked]
    if axis.kind == "choice":
        count = max(1, len(axis.values) - 1)
        ticks = [(place / count, str(value)) for place, value in enumerate(axis.values)]
        return [None if value is None else axis.values.index(value) / count for value in values], ticks
    low, high = axis.values[0], axis.values[-1]
    scaled = math.log if axis.kind == "log_uniform" else float
    found = [None if value is None else _place(scaled(value), scaled(low), scaled(high)) for value in values]
    return found, [(0.0, figure(low)), (1.0, figure(high))]


def _place(value: float, low: float, high: float) -> float:
    return 0.5 if high == low else (value - low) / (high - low)


def _importance(importances: dict[str, float]) -> str:
    names = list(importances)[::-1]
    with drawn():
        drawing, axes = new_axes(4.6, 0.4 * len(names) + 1.0, PLACEHOLDERS)
        axes.barh(names, [importances[name] for name in names], color=SERIES[0], height=0.5)
        axes.tick_params(axis="y", colors=INK)
        svg = to_svg(drawing)
    told = ", ".join(f"{name} {share:.0%}" for name, share in importances.items())
    caption = "Share of what the metric came to (PED-ANOVA); little is meant by it after a few trials."
    return figure_card(svg, "Which settings mattered", "", caption, told)


def _front(metrics: Sequence[str], records: Records) -> str:
    """Draw the first two metrics of all trials, and the front of those that no other beats in all."""
    ranked, front = (
        records.ranked(),
        sorted(records.front(), key=lambda trial: trial.final(metrics[0])),
    )
    with drawn():
        drawing, axes = new_axes(4.6, 2.9, PLACEHOLDERS)
        _dots(axes, metrics, ranked, MUTED)
        _dots(axes, metrics, front, SERIES[0])
        axes.plot(
            [trial.final(metrics[0]) for trial in front],
            [trial.final(metrics[1]) for trial in front],
            color=SERIES[0],
            linewidth=1.2,
        )
        axes.set_xlabel(metrics[0].replace("_", " "), color=MUTED)
        axes.set_ylabel(metrics[1].replace("_", " "), color=MUTED)
        svg = to_svg(drawing)
    caption = "In colour: trials that no other is as good as in both and better in one."
    return figure_card(svg, "Pareto front", "", caption, ", ".join(trial.name for trial in front))


def _dots(axes: Any, metrics: Sequence[str], trials: Sequence[TrialRecord], color: str) -> None:
    axes.plot(
        [trial.final(metrics[0]) for trial in trials],
        [trial.final(metrics[1]) for trial in trials],
        "o",
        color=color,
        markersize=4,
    )


def _history(settings: Sweep, records: Records, best: TrialRecord) -> list[str]:
    """Say which settings made the best trial's weights in turn, where it took over another's."""
    parts = list(ancestry(records, best))
    if len(parts) == 1:
        return []
    keys = list(settings.sweep.space)
    rows = [
        (f"{one['from']} to {one['to']}", one["trial"], *(shown(one["values"].get(key, "-")) for key in keys))
        for one in parts
    ]
    return [
        section(
            "How the best came about", columns_table(("steps", "trial", *keys), rows, words=("trial", *keys))
        )
    ]


def _table(settings: Sweep, records: Records) -> str:
    keys = list(settings.sweep.space)
    heads = ("trial", "state", *keys, *settings.sweep.metrics, "tokens", "reason")
    rows = [
        (
            trial.name,
            trial.state,
            *(figure(trial.values.get(key, "-")) for key in keys),
            *(figure(trial.final(name)) for name in settings.sweep.metrics),
            f"{trial.tokens:,}",
            trial.reason or "",
        )
        for trial in [*records.ranked(), *(one for one in records if not one.results or one.state == FAILED)]
    ]
    return columns_table(heads, rows, words=("state", "reason", *keys))
