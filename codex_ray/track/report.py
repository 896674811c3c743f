"""report.html: one file that opens anywhere and shows what a run did, on what, and with what.

It is made from what lies in the run folder, so it can be made again at any time. It refers to
nothing outside itself. loss.png is written beside it.
"""

from __future__ import annotations

import html
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from codex_ray.config import saved
from codex_ray.errors import CodexRayError
from codex_ray.files import read_json, unwritable, write_text
from codex_ray.track.environment import masked
from codex_ray.track.metrics import Row, read_metrics
from codex_ray.track.plots import plots_of, svg_of, write_loss_png
from codex_ray.track.progress import duration, figure
from codex_ray.track.report_style import STYLE

ERRORS_SHOWN = 20
POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # the browser, too, refuses anything from outside
# The figures a reader looks for first, by their names in summary.json.
HEADLINES = (
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
PER_SOURCE = ("source/", "validation/")  # figures that have a table of their own


def write_report(run_folder: Path) -> Path:
    """Write ``report.html``, and ``loss.png`` where there are losses, into ``run_folder``.

    Every input is optional: config.yaml, environment.json, metrics.jsonl, summary.json,
    samples.json (a list of ``{"prompt", "completion"}``), errors.ndjson.

    Returns:
        the path of the report.

    Raises:
        CodexRayError: an input is damaged, or the folder cannot be written.
    """
    rows = read_metrics(run_folder / "metrics.jsonl")
    summary = _json(run_folder / "summary.json", "the summary") or {}
    samples = _json(run_folder / "samples.json", "the list of samples") or []
    environment = _json(run_folder / "environment.json", "the environment") or {}
    config_path = run_folder / "config.yaml"
    config = saved.read(config_path) if config_path.exists() else {}
    errors = _errors(run_folder / "errors.ndjson")
    body = [
        _header(run_folder.name, rows, environment),
        _headlines(summary or _figures_of(rows)),
        _error_section(errors),
        _plot_section(rows),
        _sample_section(samples),
        _source_section(rows),
        _table_section("Results", [item for item in summary.items() if not item[0].startswith(PER_SOURCE)]),
        _settings_section(config),
        _environment_section(environment),
        f"<footer>Written by codex_ray on {time.strftime('%d %B %Y at %H:%M')}.</footer>",
    ]
    name = html.escape(run_folder.name)
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{name} · codex_ray</title><style>{STYLE}</style></head>\n"
        f"<body><main>\n{chr(10).join(part for part in body if part)}\n</main></body></html>\n"
    )
    path = run_folder / "report.html"
    write_text(path, page)
    image = run_folder / "loss.png"
    try:
        write_loss_png(rows, image)
    except OSError as error:
        raise unwritable(image, error) from error
    return path


def _json(path: Path, what: str) -> Any:
    return read_json(path, what) if path.exists() else None


def _errors(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
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
    line = " · ".join(html.escape(fact) for fact in facts if fact)
    title = f'<p class="eyebrow">codex_ray run</p><h1>{html.escape(name)}</h1>'
    return f'<header>{title}<p class="facts">{line}</p></header>'


def _headlines(summary: Mapping[str, Any]) -> str:
    tiles: list[str] = []
    for name, label in HEADLINES:
        value = summary.get(name)
        if isinstance(value, int | float) and len(tiles) < HEADLINES_SHOWN:
            number = f"{value:.1%}" if name == "mfu" else _shown(name, value, short=True)
            tiles.append(f"<div><b>{number}</b><span>{label}</span></div>")
    return f'<section class="tiles">{"".join(tiles)}</section>' if tiles else ""


def _plot_section(rows: Sequence[Row]) -> str:
    cards = []
    for plot in plots_of(rows):
        ends = [f"{curve.label} {figure(curve.values[-1])}" for curve in plot.series if curve.values]
        label = html.escape(f"{plot.title} by optimizer step; at the end: {', '.join(ends)}")
        last = html.escape(figure(plot.series[0].values[-1])) if plot.series[0].values else ""
        cards.append(
            f'<figure role="img" aria-label="{label}"><h3>{html.escape(plot.title)} <b>{last}</b></h3>'
            f"{svg_of(plot)}<figcaption>{html.escape(plot.caption)}</figcaption></figure>"
        )
    return f'<section><h2>Training</h2><div class="plots">{"".join(cards)}</div></section>' if cards else ""


def _sample_section(samples: Iterable[Mapping[str, Any]]) -> str:
    shown = [
        f'<pre><span class="prompt">{html.escape(str(sample.get("prompt", "")))}</span>'
        f"{html.escape(str(sample.get('completion', '')))}</pre>"
        for sample in samples
    ]
    note = "<p>What the model wrote, after the prompts in grey.</p>"
    return (
        f'<section><h2>Samples</h2>{note}<div class="samples">{"".join(shown)}</div></section>'
        if shown
        else ""
    )


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
            f"<details><summary><b>{html.escape(str(error.get('error')))}</b> "
            f"{html.escape(str(error.get('message'))[:300])} <span>({html.escape(place)})</span></summary>"
            f"<pre>{html.escape(str(error.get('traceback', '')))}</pre></details>"
        )
    more = (
        f"<p>and {len(errors) - ERRORS_SHOWN} more in errors.ndjson</p>" if len(errors) > ERRORS_SHOWN else ""
    )
    return f'<section class="errors"><h2>Errors</h2>{"".join(items)}{more}</section>'


def _table_section(title: str, items: Iterable[tuple[str, Any]]) -> str:
    rows = _rows((name.replace("_", " "), _shown(name, value)) for name, value in items)
    return f"<section><h2>{title}</h2><table>{rows}</table></section>" if rows else ""


def _source_section(rows: Sequence[Row]) -> str:
    """Show what a run over several sources has used of each, from the last figures there are."""
    last = {name: value for row in rows for name, value in row.items() if name.startswith(PER_SOURCE)}
    lines = []
    for name in (name.split("/", 1)[1].rsplit("/", 1)[0] for name in last if name.endswith("/epochs")):
        keys = (f"source/{name}/rows", f"source/{name}/epochs", f"validation/{name}/loss")
        shown = [_shown(key, last[key]) if last.get(key) is not None else "" for key in keys]
        cells = "".join(f"<td>{html.escape(value)}</td>" for value in shown)
        lines.append(f"<tr><th>{html.escape(name)}</th>{cells}</tr>")
    head = "<tr><th></th><td>rows used</td><td>epochs</td><td>validation loss</td></tr>"
    return f"<section><h2>Sources</h2><table>{head}{''.join(lines)}</table></section>" if lines else ""


def _settings_section(config: Mapping[str, Any]) -> str:
    plain = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    groups = {"run": plain} | {key: value for key, value in config.items() if isinstance(value, Mapping)}
    parts = [
        f"<details{' open' if name == 'run' else ''}><summary>{html.escape(str(name))}</summary>"
        f"<table>{_rows(_flat(group))}</table></details>"
        for name, group in groups.items()
        if group
    ]
    return f"<section><h2>Settings</h2>{''.join(parts)}</section>" if parts else ""


def _environment_section(environment: Mapping[str, Any]) -> str:
    groups = {
        "machine": {key: value for key, value in environment.items() if key != "packages"},
        "packages": environment.get("packages") or {},
    }
    parts = [
        f"<details><summary>{name}</summary><table>{_rows(_flat(group))}</table></details>"
        for name, group in groups.items()
        if group
    ]
    return f"<section><h2>Environment</h2>{''.join(parts)}</section>" if parts else ""


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            rows += _flat(item, f"{prefix}{key}.")
        else:
            text = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False, default=str)
            rows.append((f"{prefix}{key}", masked(text)))
    return rows


def _rows(items: Iterable[tuple[str, str]]) -> str:
    return "".join(
        f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(text)}</td></tr>" for name, text in items
    )


def _shown(name: str, value: Any, *, short: bool = False) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value if isinstance(value, str) else json.dumps(value, default=str)
    if name.endswith("_seconds"):
        return duration(value)
    for size, sign in ((1e9, "B"), (1e6, "M")) if short else ():
        if abs(value) >= size:
            return f"{value / size:.3g} {sign}"
    return figure(value)
