"""The report of an evaluation: figures with their intervals, how scores spread, and examples to read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from codex_ray.config import saved
from codex_ray.config.evaluate import OWN
from codex_ray.evaluate.records import TaskRecord, is_share, silence
from codex_ray.evaluate.tasks import EMPTY
from codex_ray.files import read_json, write_text
from codex_ray.track.drawing import INK, MUTED, PLACEHOLDERS, SERIES, drawn, new_axes, to_svg
from codex_ray.track.page import (
    build_page,
    columns_table,
    escape,
    figure_card,
    header,
    section,
    settings_section,
    tiles,
)
from codex_ray.track.progress import figure
from codex_ray.track.report import environment_section, headlines, results_section

SHOWN = 12  # examples of each end
CHARACTERS = 1500  # of a text that is shown
BINS = 20


def write_page(folder: Path, records: Sequence[TaskRecord]) -> Path:
    """Write report.html into an evaluation's folder.

    Raises:
        CodexRayError: an input is damaged, or the folder cannot be written.
    """
    summary = read_json(folder / "summary.json", "the summary")
    environment = read_json(folder / "environment.json", "the environment")
    config = saved.read(folder / "config.yaml")
    facts = [str(config.get("model") or config.get("predictions"))]
    facts += [f"{len(records)} tasks"] if records else []
    facts.append(str(environment.get("time", ""))[:16].replace("T", " at "))
    held_out = {name: value for name, value in summary.items() if "/" not in name}
    body = [
        header("evaluation", folder.name, facts),
        headlines(summary) or _tiles(records),
        section("Tasks", interval_card(_rows(records)) + figures_table(records)),
        *(_task_section(record) for record in records),
        results_section(held_out),
        section("codex_ray itself", _own(summary)),
        section("Sources", _sources(summary)),
        section("Calibration", _calibration_card(folder / "calibration.json")),
        settings_section(config, "evaluation"),
        environment_section(environment),
    ]
    path = folder / "report.html"
    write_text(path, build_page(folder.name, body))
    return path


def shown(metric: str, value: float) -> str:
    """Write a metric's value for people: shares in per cent."""
    return f"{value:.1%}" if is_share(metric) else figure(value)


def figures_table(records: Iterable[TaskRecord]) -> str:
    """Return a table of all figures with their intervals."""
    rows = [
        (
            record.name,
            name,
            shown(name, found["value"]),
            f"{shown(name, found['low'])} to {shown(name, found['high'])}",
            found["method"],
            shown(name, record.best[name]) if name in record.best else "",
            str(found["examples"]),
        )
        for record in records
        for name, found in record.figures.items()
    ]
    heads = ("task", "metric", "value", "interval", "by", "ceiling", "examples")
    return columns_table(heads, rows, words=("metric", "by"))


def interval_card(rows: Sequence[tuple[str, float, float, float]]) -> str:
    """Return a drawing of values between 0 and 1 with their intervals, one line each.

    Args:
        rows: what each is called, its value and its ends.
    """
    if not rows:
        return ""
    with drawn():
        drawing, axes = new_axes(9.2, 0.6 + 0.28 * len(rows), PLACEHOLDERS)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", color=PLACEHOLDERS[MUTED], linewidth=0.3)
        for place, (_, value, low, high) in enumerate(rows):
            axes.plot([low, high], [place, place], color=SERIES[0], linewidth=2.2, alpha=0.45)
            axes.plot([value], [place], "o", color=SERIES[0], markersize=5)
        axes.set_yticks(range(len(rows)), [name for name, *_ in rows], color=INK)
        axes.set_xlim(min(0.0, *(low for _, _, low, _ in rows)) - 0.02, 1.02)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        svg = to_svg(drawing)
    label = "; ".join(f"{name} {value:.3g}, {low:.3g} to {high:.3g}" for name, value, low, high in rows)
    return figure_card(svg, "Shares", "", "Each figure and its interval.", label)


def _rows(records: Iterable[TaskRecord]) -> list[tuple[str, float, float, float]]:
    return [
        (f"{record.name} · {name}", found["value"], found["low"], found["high"])
        for record in records
        for name, found in record.figures.items()
        if name != EMPTY and is_share(name)
    ]


def _own(summary: Mapping[str, Any]) -> str:
    rows = []
    for name, value in summary.items():
        task, _, kind = name.partition("/")
        if task in OWN and f"{name}_low" in summary:
            low, high = summary[f"{name}_low"], summary[f"{name}_high"]
            rows.append((task, kind, f"{value:.1%}", f"{low:.1%} to {high:.1%}"))
    return columns_table(("task", "figure", "value", "interval"), rows, words=("figure",))


def _sources(summary: Mapping[str, Any]) -> str:
    ending = "/bits_per_byte"
    names = [
        name.removeprefix("source/").removesuffix(ending)
        for name in summary
        if name.startswith("source/") and name.endswith(ending)
    ]
    kinds = ("bits_per_byte", "perplexity", "bytes")
    rows = [(name, *(figure(summary[f"source/{name}/{kind}"]) for kind in kinds)) for name in names]
    return columns_table(("source", "bits per byte", "perplexity", "bytes"), rows)


def _calibration_card(path: Path) -> str:
    if not path.exists():
        return ""
    bins = read_json(path, "the calibration")
    xs, ys = [one["confidence"] for one in bins], [one["accuracy"] for one in bins]
    with drawn():
        drawing, axes = new_axes(4.6, 3.2, PLACEHOLDERS)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8)
        axes.plot(xs, ys, "o-", color=SERIES[0], markersize=4)
        axes.set_xlabel("confidence in the likeliest token", color=MUTED, fontsize=8)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        svg = to_svg(drawing)
    points = "; ".join(f"{x:.2f} sure, {y:.2f} right" for x, y in zip(xs, ys, strict=True))
    return figure_card(
        svg, "How often it is right", "", "By how sure it is; the line is where both agree.", points
    )


def _tiles(records: Sequence[TaskRecord]) -> str:
    heads = []
    for record in records[:6]:
        name = next(iter(record.figures))
        heads.append((shown(name, record.figures[name]["value"]), f"{record.name}, {name.replace('_', ' ')}"))
    return tiles(heads)


def _task_section(record: TaskRecord) -> str:
    metric = next(iter(record.figures))
    # Those that score the same by the first metric are told apart by the others.
    ranked = sorted(record.examples, key=lambda example: list(example["scores"].values()))
    worst, best = ranked[:SHOWN], ranked[::-1][:SHOWN]
    digest = f"Version {record.version}, {len(record.examples)} examples, data {record.data_digest[:12]}."
    body = (
        _spread_card(record, metric)
        + _samples(f"Worst first, by {metric}", worst)
        + _samples(f"Best first, by {metric}", best)
    )
    said = silence(record)
    notes = [record.description, digest, f"{said[0].upper()}{said[1:]}." if said else ""]
    return section(record.name, body, " ".join(filter(None, notes)))


def _spread_card(record: TaskRecord, metric: str) -> str:
    values = [example["scores"][metric] for example in record.examples]
    with drawn():
        drawing, axes = new_axes(9.2, 2.2, PLACEHOLDERS)
        limits = (0.0, 1.0) if is_share(metric) else (min(values), max(max(values), min(values) + 1e-9))
        axes.hist(values, bins=BINS, range=limits, color=SERIES[0], alpha=0.8)
        axes.set_xlabel(metric, color=MUTED, fontsize=8)
        svg = to_svg(drawing)
    caption = "How many examples scored what."
    return figure_card(
        svg, "Spread of scores", "", caption, f"histogram of {metric} over {len(values)} examples"
    )


def _samples(title: str, examples: Sequence[Mapping[str, Any]]) -> str:
    shown_ones = "".join(_sample(example) for example in examples)
    return f'<details class="reason"><summary>{escape(title)}</summary>{shown_ones}</details>'


def _sample(example: Mapping[str, Any]) -> str:
    scores = ", ".join(f"{name} {figure(value)}" for name, value in example["scores"].items())
    outputs = "".join(f"<mark>{escape(_cut(text))}</mark>\n" for text in example["outputs"][:4])
    references = "".join(
        f'<span class="piece"><small>reference</small>{escape(_cut(text))}</span>'
        for text in example["references"][:4]
    )
    prompt = example["prompt"]
    tail = prompt if len(prompt) <= CHARACTERS else f"… {prompt[-CHARACTERS:]}"
    return (
        f'<div class="row"><p>{escape(example["id"])} <span>{escape(scores)}</span></p>'
        f'<pre><span class="prompt">{escape(tail)}</span></pre><pre>{outputs}{references}</pre></div>'
    )


def _cut(text: str) -> str:
    return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]} …"
