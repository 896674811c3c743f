"""``runs tag`` and ``runs prune``: naming what is to stay, and taking away what is not."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from codex_ray.config.runs import KEEP, PruneRuns, TagRun
from codex_ray.errors import CodexRayError
from codex_ray.files import folder_lock, read_json, unwritable, write_json
from codex_ray.model.lineage import record_of
from codex_ray.runs.state import RUNNING, UNREADABLE, find_run, last_attempt, run_folders, states
from codex_ray.track.progress import Figure, Progress, duration, size

TAGS = "tags.json"
DAY_SECONDS = 86_400.0


def tag_verb(settings: TagRun) -> list[str]:
    """Add and remove tags of a run; returns and prints all that it has."""
    run = find_run(settings.run, settings.runs)
    tags = sorted({*tags_of(run), *settings.add} - {*settings.remove})
    write_json(run / TAGS, tags)
    print(f"{run.name}: {', '.join(tags) or 'no tags'}")
    return tags


def tags_of(run: Path) -> list[str]:
    """Return a run's tags.

    Raises:
        CodexRayError: their file is damaged.
    """
    path = run / TAGS
    found = read_json(path, "tags") if path.is_file() else []
    if not isinstance(found, list) or not all(isinstance(tag, str) for tag in found):
        raise CodexRayError(f"tags {path} are damaged (no list of words); remove the file")
    return found


def prune_verb(settings: PruneRuns, progress: Progress | None = None) -> list[Path]:
    """Say which runs, or which of their checkpoints, would go; with ``yes`` take them away.

    Never goes what runs, what cannot be read, what is tagged, and what the model of another run began from.

    Raises:
        CodexRayError: there is no run, or something cannot be removed.
    """
    folder = Path(settings.runs).expanduser().absolute()
    runs = run_folders(folder)
    if not runs:
        raise CodexRayError(
            f"there is no run in {folder}; give the folder that holds run folders as runs=FOLDER"
        )
    stand = states(runs)
    rows: list[tuple[Figure, ...]] = []
    gone: list[Path] = []
    parents = set(_parents(runs))
    for run in runs:
        age = time.time() - _touched(run)
        reason = _kept(run, stand[run], age, settings, parents)
        parts = [run] if settings.what == "runs" else _old_checkpoints(run)
        if not reason and not parts:
            reason = "has no checkpoints to spare"
        freed = 0 if reason else sum(bytes_of(part) for part in parts)
        rows.append(
            (run.name, stand[run], duration(age), size(freed), reason or ", ".join(_named(run, parts)))
        )
        gone += [] if reason else parts
    with Progress("off") if progress is None else progress as shown:
        title = (
            f"{settings.what} that go"
            if settings.yes
            else f"{settings.what} that would go; yes=true takes them"
        )
        shown.table(title, rows, ("run", "state", "age", "freed", "what goes, or why nothing does"))
    if settings.yes:
        for part in gone:
            _remove(part, settings.what)
    return gone


def bytes_of(path: Path) -> int:
    """Return what a file or folder takes on disk; a file of two names counts once, links do not."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for root, _, names in os.walk(path):
        for name in (".", *names):
            with suppress(OSError):
                found = os.lstat(os.path.join(root, name))  # noqa: PTH118
                if (found.st_dev, found.st_ino) not in seen:
                    seen.add((found.st_dev, found.st_ino))
                    total += found.st_blocks * 512
    return total


def _kept(run: Path, state: str, age: float, settings: PruneRuns, parents: set[Path]) -> str:
    """Return why a run stays; empty where it may go."""
    if state in (RUNNING, UNREADABLE):
        return f"is {state}"
    if state not in settings.states:
        return f"is {state}, which states={settings.states} leaves alone"
    if age < settings.older_days * DAY_SECONDS:
        return f"is younger than older_days={settings.older_days:g}"
    tags = tags_of(run)
    if KEEP in tags or (tags and not settings.tagged):
        return f"is tagged {', '.join(tags)}"
    if settings.what == "runs" and run in parents:
        return "another run's model began from it"
    return ""


def _parents(runs: Sequence[Path]) -> Iterator[Path]:
    """Iterate over the runs that models of these runs began from."""
    for run in runs:
        record: Mapping[str, Any] | None = None
        with suppress(CodexRayError, OSError):
            record = record_of(run)
        while record:
            parent = record.get("parent")
            record = parent["lineage"] if parent else None
            if parent:
                model = Path(parent["model"])
                yield from (model, model.parent)


def _old_checkpoints(run: Path) -> list[Path]:
    """Return all checkpoints of a run but the newest, by which it could be continued."""
    return sorted(run.glob("checkpoints/step_*"))[:-1]


def _named(run: Path, parts: Sequence[Path]) -> list[str]:
    return ["all of it" if part == run else part.name for part in parts]


def _touched(run: Path) -> float:
    return (last_attempt(run) or run).stat().st_mtime


def _remove(part: Path, what: str) -> None:
    """Take a folder away under another name first, so that nothing half-removed is taken for a run."""
    run = part if what == "runs" else part.parents[1]
    try:
        with folder_lock(run, "run folder"):
            doomed = part.with_name(f".{part.name}.gone")
            part.rename(doomed)
            shutil.rmtree(doomed)
    except OSError as error:
        raise unwritable(part, error) from error


def listed_tags(run: Path) -> str:
    """Return a run's tags for a table; damaged ones are said to be."""
    try:
        return " ".join(tags_of(run))
    except (CodexRayError, json.JSONDecodeError):
        return "damaged"
