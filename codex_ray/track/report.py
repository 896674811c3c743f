"""report.html: one file that opens anywhere and shows what a run did, on what, and with what.

It is made from what lies in the run folder, so it can be made again at any time. It refers to
nothing outside itself. loss.png is written beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from codex_ray.config import saved
from codex_ray.errors import CodexRayError
from codex_ray.files import read_json, unwritable, write_text
from codex_ray.track.evaluations import COLUMNS, PREFIX, task_plot, task_rows
from codex_ray.track.metrics import Row, read_run
from codex_ray.track.page import (
    build_page,
    columns_table,
    escape,
    facts_table,
    figure_card,
    folded_section,
    header,
    section,
    settings_section,
    tiles,
)
from codex_ray.track.plots import Plot, plots_of, svg_of, write_loss_png
from codex_ray.track.progress import duration, figure
from codex_ray.track.time_report import time_section

ERRORS_SHOWN = 20
# The figures a reader looks for first, by their names in summary.json.
HEADLINES = (
    ("discover/best", "best solution"),
    ("discover/gap", "from the best published"),
    ("bits_per_byte", "bits per byte, held out"),
    ("perplexity", "perplexity, held out"),
    ("validation_loss", "validation loss"),
    ("tokens_per_second", "tokens per second"),
    ("mfu", "of the peak (MFU)"),
    ("tokens", "tokens seen"),
    ("parameters", "parameters"),
    ("train_seconds", "of training"),
)
HEADLINES_SHOWN = 6
STEPS_SAMPLED = 4  # of the samples written while training
PER_SOURCE = ("source/", "validation/", PREFIX)  # figures that have a table of their own

Sections = Callable[[Path, Sequence[Row]], list[str]]
"""Makes, of a run folder and its rows, what a report says of this kind of run alone."""


def write_report(run_folder: Path, own: Sections | None = None) -> Path:
    """Write ``report.html``, and ``loss.png`` where there are losses, into ``run_folder``.

    Every input is optional: config.yaml, environment.json, metrics.jsonl, summary.json,
    samples.json (a list of ``{"prompt", "completion"}``), samples.jsonl (the same while training, each
    with its ``step``), errors.ndjson.

    Returns:
        the path of the report.

    Raises:
        CodexRayError: an input is damaged, or the folder cannot be written.
    """
    rows = read_run(run_folder)
    summary = _json(run_folder / "summary.json", "the summary") or {}
    samples = _samples_on_the_way(run_folder / "samples.jsonl")
    samples += _json(run_folder / "samples.json", "the list of samples") or []
    environment = _json(run_folder / "environment.json", "the environment") or {}
    config_path = run_folder / "config.yaml"
    config = saved.read(config_path) if config_path.exists() else {}
    errors = _errors(run_folder / "errors.ndjson")
    body = [
        _header(run_folder.name, rows, environment),
        headlines(summary or _figures_of(rows)),
        _error_section(errors),
        _task_section(run_folder, summary),
        *(own(run_folder, rows) if own is not None else ()),
        _plot_section(rows),
        time_section(run_folder, last_step(rows)),
        _sample_section(samples),
        _source_section(rows),
        results_section(summary),
        settings_section(config, "run"),
        environment_section(environment),
    ]
    path = run_folder / "report.html"
    write_text(path, build_page(run_folder.name, body))
    image = run_folder / "loss.png"
    try:
        write_loss_png(rows, image)
    except OSError as error:
        raise unwritable(image, error) from error
    return path


def last_step(rows: Sequence[Row]) -> int:
    """Return the optimizer step of the last row; 0 without rows."""
    step = rows[-1].get("step") if rows else 0
    return step if isinstance(step, int) else 0


def _json(path: Path, what: str) -> Any:
    return read_json(path, what) if path.exists() else None


def _lines(path: Path) -> list[str]:
    """Return a file's lines, which only newlines end; a character that was torn is replaced."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        return list(stream)


def _errors(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in _lines(path) if line.strip()]
    except ValueError as error:
        raise CodexRayError(f"{path} is damaged ({error}); move it away to write the report") from error


def _figures_of(rows: Sequence[Row]) -> dict[str, Any]:
    """Stand in for a summary that a stopped run has not written."""
    last: dict[str, Any] = {name: value for row in rows for name, value in row.items() if value is not None}
    return {
        name: last[name] for name in ("validation_loss", "tokens_per_second", "mfu", "tokens") if name in last
    }


def _header(name: str, rows: Sequence[Row], environment: Mapping[str, Any]) -> str:
    facts = [str(environment.get("time", ""))[:16].replace("T", " at ")]
    if rows:
        facts.append(f"{figure(len(rows))} optimizer steps recorded")
    cpu, cards = environment.get("cpu") or {}, environment.get("gpus") or []
    facts.append(", ".join(sorted({card.get("name", "") for card in cards})) or str(cpu.get("model", "")))
    commit = environment.get("commit") or {}
    if commit.get("commit"):
        facts.append(f"commit {commit['commit'][:10]}{' with changes' if commit.get('dirty') else ''}")
    return header("run", name, facts)


def headlines(summary: Mapping[str, Any]) -> str:
    """Return a row of the figures that a reader looks for first."""
    shown: list[tuple[str, str]] = []
    for name, label in HEADLINES:
        value = summary.get(name)
        if isinstance(value, int | float) and len(shown) < HEADLINES_SHOWN:
            number = f"{value:.1%}" if name == "mfu" else _shown(name, value, short=True)
            shown.append((number, label))
    return tiles(shown)


def _task_section(run_folder: Path, summary: Mapping[str, Any]) -> str:
    """Show what the model could do before and after, of the tasks that the run followed."""
    plot, rows = task_plot(run_folder), task_rows(summary)
    drawing = f'<div class="plots">{_card(plot)}</div>' if plot else ""
    return section("Tasks", drawing + (columns_table(COLUMNS, rows) if rows else ""))


def _plot_section(rows: Sequence[Row]) -> str:
    cards = [_card(plot) for plot in plots_of(rows)]
    return section("Training", f'<div class="plots">{"".join(cards)}</div>' if cards else "")


def _card(plot: Plot) -> str:
    ends = [f"{curve.label} {figure(curve.values[-1])}" for curve in plot.series if curve.values]
    label = f"{plot.title} by optimizer step; at the end: {', '.join(ends)}"
    last = figure(plot.series[0].values[-1]) if plot.series[0].values else ""
    return figure_card(svg_of(plot), plot.title, last, plot.caption, label)


def _sample_section(samples: Iterable[Mapping[str, Any]]) -> str:
    shown = [
        f'<pre>{_step_of(sample)}<span class="prompt">{escape(str(sample.get("prompt", "")))}</span>'
        f"{escape(str(sample.get('completion', '')))}</pre>"
        for sample in samples
    ]
    body = f'<div class="samples">{"".join(shown)}</div>' if shown else ""
    return section("Samples", body, "What the model wrote, after the prompts in grey.")


def _step_of(sample: Mapping[str, Any]) -> str:
    step = sample.get("step")
    return f'<span class="prompt">step {figure(step)}\n</span>' if isinstance(step, int) else ""


def _samples_on_the_way(path: Path) -> list[dict[str, Any]]:
    """Choose some steps of those that have samples, from first to last; of steps done again, the newest."""
    by_step: dict[int, dict[str, dict[str, Any]]] = {}
    for line in _lines(path) if path.exists() else ():
        try:
            sample = json.loads(line)
            by_step.setdefault(sample["step"], {})[sample["prompt"]] = sample
        except (ValueError, KeyError, TypeError):
            continue  # torn when a worker was killed
    steps = sorted(by_step)
    parts = range(STEPS_SAMPLED) if steps else ()
    chosen = sorted({round(part * (len(steps) - 1) / (STEPS_SAMPLED - 1)) for part in parts})
    return [sample for index in chosen for sample in by_step[steps[index]].values()]


def _error_section(errors: Sequence[Mapping[str, Any]]) -> str:
    if not errors:
        return ""
    items = []
    for error in errors[:ERRORS_SHOWN]:
        place = ", ".join(
            f"{key} {error[key]}"
            for key in ("attempt", "role", "rank", "step", "phase")
            if error.get(key) is not None
        )
        items.append(
            f"<details><summary><b>{escape(str(error.get('error')))}</b> "
            f"{escape(str(error.get('message'))[:300])} <span>({escape(place)})</span></summary>"
            f"<pre>{escape(str(error.get('traceback', '')))}</pre></details>"
        )
    more = (
        f"<p>and {len(errors) - ERRORS_SHOWN} more in errors.ndjson</p>" if len(errors) > ERRORS_SHOWN else ""
    )
    return f'<section class="errors"><h2>Errors</h2>{"".join(items)}{more}</section>'


def results_section(summary: Mapping[str, Any]) -> str:
    """Return a section of all closing figures."""
    shown = ((name, value) for name, value in summary.items() if not name.startswith(PER_SOURCE))
    return section(
        "Results", facts_table([(name.replace("_", " "), _shown(name, value)) for name, value in shown])
    )


def _source_section(rows: Sequence[Row]) -> str:
    """Show what a run over several sources has used of each, from the last figures there are."""
    last = {name: value for row in rows for name, value in row.items() if name.startswith(PER_SOURCE)}
    lines = []
    for name in (name.split("/", 1)[1].rsplit("/", 1)[0] for name in last if name.endswith("/epochs")):
        keys = (f"source/{name}/rows", f"source/{name}/epochs", f"validation/{name}/loss")
        shown = [_shown(key, last[key]) if last.get(key) is not None else "" for key in keys]
        cells = "".join(f"<td>{escape(value)}</td>" for value in shown)
        lines.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    head = "<tr><th></th><td>rows used</td><td>epochs</td><td>validation loss</td></tr>"
    return section("Sources", f"<table>{head}{''.join(lines)}</table>") if lines else ""


def environment_section(environment: Mapping[str, Any]) -> str:
    """Return a section of what the run ran on and with."""
    groups = {
        "machine": {key: value for key, value in environment.items() if key != "packages"},
        "packages": environment.get("packages") or {},
    }
    return folded_section("Environment", groups)


def _shown(name: str, value: Any, *, short: bool = False) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value if isinstance(value, str) else json.dumps(value, default=str)
    if name.endswith("_seconds"):
        return duration(value)
    for size, sign in ((1e9, "B"), (1e6, "M")) if short else ():
        if abs(value) >= size:
            return f"{value / size:.3g} {sign}"
    return figure(value)
