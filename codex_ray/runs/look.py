"""``runs list`` and ``runs show``."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from codex_ray.config.runs import ListRuns, ShowRun
from codex_ray.errors import CodexRayError
from codex_ray.runs.keep import bytes_of, listed_tags
from codex_ray.runs.state import (
    RUNNING,
    UNREADABLE,
    find_run,
    is_run,
    last_attempt,
    last_row,
    run_folders,
    states,
    total_steps,
)
from codex_ray.track.metrics import Row, read_run
from codex_ray.track.progress import Figure, Progress, duration, figure, size
from codex_ray.track.system import newest_samples
from codex_ray.train.messages import MessageReader

COLUMNS = ("run", "state", "step", "loss", "tokens/s", "age", "disk", "tags")
SHOWN = (
    "loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "mfu",
    "data_share",
    "step_seconds",
    "tokens",
)


def list_verb(settings: ListRuns, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Print a table of the runs of a folder, the newest first.

    Raises:
        CodexRayError: there is none.
    """
    folder = Path(settings.runs).expanduser()
    runs = [folder] if is_run(folder) else run_folders(folder)
    if not runs:
        raise CodexRayError(
            f"there is no run in {folder}; give the folder that holds run folders as runs=FOLDER"
        )
    if settings.tag is not None:
        runs = [run for run in runs if settings.tag in listed_tags(run).split()]
    stand = states(runs)
    found = [_listed(run, stand[run]) for run in runs]
    found.sort(key=lambda one: (one["state"] != RUNNING, one["age"]))
    with Progress("off") if progress is None else progress as shown:
        shown.table(f"runs in {folder}", [_cells(one) for one in found], COLUMNS)
    return found


def _listed(run: Path, state: str) -> dict[str, Any]:
    """Return a run's line of the table; one that cannot be read does not hide the others."""
    row: Row = {}
    total = None
    try:
        row, total = last_row(run), total_steps(run)
    except (CodexRayError, OSError):
        state = UNREADABLE
    return {
        "run": run.name,
        "state": state,
        "step": row.get("step", 0),
        "total": total,
        "loss": row.get("loss"),
        "tokens/s": row.get("tokens_per_second"),
        "age": time.time() - _touched(run, row),
        "bytes": bytes_of(run),
        "tags": listed_tags(run),
    }


def show_verb(settings: ShowRun, progress: Progress | None = None) -> None:
    """Print how one run stands.

    Raises:
        CodexRayError: there is no such run.
    """
    run = find_run(settings.run, settings.runs)
    row, total, attempt = last_row(run), total_steps(run), last_attempt(run)
    state = states([run])[run]
    facts: list[tuple[str, Figure]] = [("folder", str(run)), ("state", state)]
    facts += [("disk", size(bytes_of(run))), ("tags", listed_tags(run) or "none")]
    facts += [("starts", int(attempt.name) if attempt else 0)]
    facts += [
        ("step", _of(row.get("step", 0), total)),
        ("newest step", f"{duration(time.time() - _touched(run, row))} ago"),
    ]
    facts += [(name.replace("_", " "), row[name]) for name in SHOWN if name in row]
    facts += _validation(run)
    kept = sorted(path.name for path in run.glob("checkpoints/step_*"))
    facts.append(("checkpoints", ", ".join(kept) or "none"))
    with Progress("off") if progress is None else progress as shown:
        shown.table(run.name, facts)
        if attempt is not None:
            _show_nodes(attempt, shown)
        first = run / "first_error.txt"
        if first.exists():
            lines = first.read_text(encoding="utf-8").strip().splitlines()
            shown.table("first error", [(lines[0], ""), (lines[-1], "")])


def _show_nodes(attempt: Path, shown: Progress) -> None:
    workers = {item["rank"]: item for item in MessageReader(attempt).new() if item["kind"] == "worker"}
    loads = newest_samples(attempt)
    rows: list[tuple[Figure, ...]] = []
    for rank, worker in sorted(workers.items()):
        load = loads.get(str(worker["node"]).replace(":", "_"), {})
        used = load.get("memory_used_bytes")
        rows.append(
            (
                f"rank {rank}",
                worker["node"],
                worker["pid"],
                f"{load['cpu_percent']:.0f} %" if load else None,
                f"{used / 2**30:.1f} GiB" if used is not None else None,
            )
        )
    if rows:
        shown.table(f"workers of start {attempt.name}", rows, ("", "node", "process", "CPU", "memory used"))


def _validation(run: Path) -> list[tuple[str, Figure]]:
    measured = [row for row in read_run(run) if "validation_loss" in row]
    if not measured:
        return []
    last = measured[-1]
    return [("validation loss", f"{figure(last['validation_loss'])} at step {last['step']}")]


def _touched(run: Path, row: Row) -> float:
    """When the run last did something."""
    at = row.get("time")
    if isinstance(at, int | float):
        return float(at)
    with suppress(OSError):
        return (last_attempt(run) or run).stat().st_mtime
    return run.stat().st_mtime


def _of(step: Any, total: int | None) -> str:
    return f"{step:,}" if total is None else f"{step:,} of {total:,}"


def _cells(one: dict[str, Any]) -> list[Figure]:
    step = _of(one["step"], one["total"])
    return [
        one["run"],
        one["state"],
        step,
        one["loss"],
        one["tokens/s"],
        duration(one["age"]),
        size(one["bytes"]),
        one["tags"],
    ]
