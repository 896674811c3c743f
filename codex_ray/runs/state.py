"""How a run stands, told from its folder: from how it ended, its driver's lock, and its workers' pulses."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from codex_ray.errors import CodexRayError, nearest
from codex_ray.files import read_json
from codex_ray.track.metrics import Row

RUNNING, COMPLETED, STOPPED, FAILED = "running", "completed", "stopped", "failed"
UNREADABLE = "unreadable"
PULSE_SECONDS = 2.5  # in which every pulse of a running run changes
TAIL_BYTES = 1 << 16


def find_run(name: str, runs: str) -> Path:
    """Return a run's folder by its path, or by its name in ``runs``.

    Raises:
        CodexRayError: there is no such run; the sentence names the nearest.
    """
    for folder in (Path(name).expanduser(), Path(runs).expanduser() / name):
        if is_run(folder):
            if not _may_read(folder):
                raise CodexRayError(f"you may not read run {folder}; ask its owner, or give another")
            return folder.absolute()
    hint = nearest(name, [folder.name for folder in run_folders(Path(runs).expanduser())])
    raise CodexRayError(
        f"there is no run {name!r}, neither as a folder nor in {runs}{hint}; see codex-ray runs list"
    )


def is_run(folder: Path) -> bool:
    """Whether a folder is one that a run made, or one that this user may not look into."""
    try:
        return (folder / "attempts").is_dir()
    except PermissionError:
        return True


def run_folders(runs: Path) -> list[Path]:
    """Return the run folders in a folder, by name."""
    return sorted(folder for folder in runs.glob("*") if is_run(folder)) if runs.is_dir() else []


def last_attempt(run: Path) -> Path | None:
    """Return the folder of a run's newest start."""
    numbers = [int(path.name) for path in run.glob("attempts/*") if path.name.isdigit()]
    return run / "attempts" / str(max(numbers)) if numbers else None


def states(runs: Iterable[Path]) -> dict[Path, str]:
    """Say of each run whether it is running, completed, stopped or failed, or cannot be read.

    A run whose driver holds its folder is running. The lock of a driver on another machine may not be seen
    here: where the newest start has not written how it ended, the pulses of its workers are looked at twice.
    One without either was killed, and counts as failed.
    """
    found: dict[Path, str] = {}
    unknown: dict[Path, dict[str, Any]] = {}
    for run in runs:
        attempt = last_attempt(run)
        try:
            ended = outcome(attempt) if attempt else None
        except (CodexRayError, OSError):
            found[run] = UNREADABLE
            continue
        if not _may_read(run):
            found[run] = UNREADABLE
        elif locked(run):
            found[run] = RUNNING
        elif ended is not None:
            found[run] = ended["status"]
        else:
            found[run], unknown[run] = FAILED, _pulses(attempt)
    if any(unknown.values()):
        time.sleep(PULSE_SECONDS)
    for run, before in unknown.items():
        if before and _pulses(last_attempt(run)) != before:
            found[run] = RUNNING
    return found


def outcome(attempt: Path) -> dict[str, Any] | None:
    """Return how a start ended: ``status`` and ``time``; None where it has not, or was killed.

    Raises:
        CodexRayError: the file is damaged.
    """
    path = attempt / "outcome.json"
    if not path.exists():
        return None
    ended = read_json(path, "how the run ended")
    if not isinstance(ended, dict) or not isinstance(ended.get("status"), str):
        raise CodexRayError(f"how the run ended {path} is damaged (it has no status); remove it")
    return ended


def locked(run: Path) -> bool:
    """Whether a driver holds the run folder."""
    try:
        handle = os.open(run / ".lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks, where pulses tell
        return False
    finally:
        os.close(handle)  # the lock goes with it
    return False


def _may_read(run: Path) -> bool:
    return os.access(run / "attempts", os.R_OK | os.X_OK)


def last_row(run: Path) -> Row:
    """Return the newest row of metrics, read from the end of the file; empty where there is none."""
    try:
        with (run / "metrics.jsonl").open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = stream.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        with suppress(ValueError):
            row: Row = json.loads(line)
            if isinstance(row, dict):
                return row
    return {}


def total_steps(run: Path) -> int | None:
    """Return how many steps the run is to have, once that is decided.

    Raises:
        CodexRayError: the file is damaged.
    """
    path = run / "decided.json"
    decided = read_json(path, "run decisions") if path.exists() else None
    total = decided.get("total_steps") if isinstance(decided, dict) else None
    return total if isinstance(total, int) else None


def _pulses(attempt: Path | None) -> dict[str, Any]:
    found = {}
    for path in attempt.glob("pulse_*.json") if attempt else ():
        with suppress(OSError, ValueError, KeyError, TypeError):
            pulse = json.loads(path.read_text(encoding="utf-8"))
            found[path.name] = (pulse["key"], pulse["beats"])
    return found
