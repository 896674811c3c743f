"""Where a run's time went, for its report: from the spans of rank 0 in every attempt."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from codex_ray.track.page import columns_table, figure_card, section
from codex_ray.track.plots import Plot, Series, svg_of
from codex_ray.track.progress import duration, figure
from codex_ray.track.spans import read_spans

STRETCHES = 60  # that a run's steps are cut into
DRAWN = ("data", "forward", "backward", "optimizer step", "validation", "checkpoint")


def time_section(run_folder: Path, last_step: int) -> str:
    """Return HTML: seconds per step by phase over the run, and what each phase took; empty without spans."""
    paths = sorted(run_folder.glob("attempts/*/spans_0.jsonl"), key=lambda path: int(path.parent.name))
    totals, stretches = _added((span for span in read_spans(paths) if span["step"] <= last_step), last_step)
    if not totals:
        return ""
    whole = sum(totals.values())
    rows = [(phase, duration(spent), f"{spent / whole:.1%}") for phase, spent in totals.most_common()]
    table = columns_table(("phase", "time", "share"), rows)
    plot = _plot(stretches, last_step)
    drawn = figure_card(svg_of(plot), plot.title, "", plot.caption, _words(plot)) if plot else ""
    note = "Of rank 0, in all attempts; steps that were done again count again."
    return section("Where time went", f'<div class="plots">{drawn}<div>{table}</div></div>', note)


def _added(
    spans: Iterable[Mapping[str, Any]], last_step: int
) -> tuple[Counter[str], dict[int, Counter[str]]]:
    """Add up seconds by phase, and by stretch of the run and phase."""
    totals: Counter[str] = Counter()
    stretches: dict[int, Counter[str]] = defaultdict(Counter)
    for span in spans:
        totals[span["phase"]] += span["seconds"]
        if span["step"] > 0:
            stretches[(span["step"] - 1) * STRETCHES // last_step][span["phase"]] += span["seconds"]
    return totals, stretches


def _plot(stretches: Mapping[int, Counter[str]], last_step: int) -> Plot | None:
    if len(stretches) < 2:
        return None
    order = sorted(stretches)
    ends = [float(-(-(one + 1) * last_step // STRETCHES)) for one in order]
    lengths = [end + (one * last_step) // -STRETCHES for one, end in zip(order, ends, strict=True)]
    curves = [
        Series(phase, ends, [stretches[one][phase] / n for one, n in zip(order, lengths, strict=True)])
        for phase in DRAWN
        if any(stretches[one][phase] for one in order)
    ]
    caption = "Stacked, without the start and what is small."
    return Plot("Seconds per step", caption, curves, from_zero=True, stacked=True)


def _words(plot: Plot) -> str:
    ends = [f"{curve.label} {figure(curve.values[-1])}" for curve in plot.series]
    return f"{plot.title} by optimizer step; at the end: {', '.join(ends)}"
