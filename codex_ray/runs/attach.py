"""``runs attach``: the display of a run that something else drives, made from its folder alone."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from codex_ray.config import saved
from codex_ray.config.common import Cluster
from codex_ray.config.runs import AttachRun
from codex_ray.errors import ConfigError
from codex_ray.runs.state import RUNNING, find_run, last_attempt, locked, outcome, states, total_steps
from codex_ray.track.metrics import MetricsFollower
from codex_ray.track.progress import Progress
from codex_ray.train.display import Display
from codex_ray.train.messages import MessageReader

POLL_SECONDS = 0.3
QUIET_SECONDS = 20.0  # without rows or messages, until it is asked whether the run still runs


def attach_verb(settings: AttachRun, progress: Progress | None = None) -> str:
    """Show a run's display until the run ends, or until Ctrl-C, which leaves the run alone.

    Returns:
        how the run ended, or ``running`` after Ctrl-C.

    Raises:
        CodexRayError: there is no such run.
    """
    run = find_run(settings.run, settings.runs)
    with (
        Progress(settings.progress) if progress is None else progress as shown,
        shown.stage(run.name, total=total_steps(run), unit="steps"),
    ):
        try:
            ended = _follow(run, shown)
        except KeyboardInterrupt:
            shown.note(f"detached; run {run.name} goes on")
            return RUNNING
        shown.note(f"run {run.name}: {ended}")
    return ended


def _follow(run: Path, shown: Progress) -> str:
    """Show what comes until the run has ended; returns how."""
    display, metrics = Display(shown), MetricsFollower(run / "metrics.jsonl")
    attempt, messages, heard = None, None, time.monotonic()
    seen = locked(run)  # where its driver's lock can be seen, it tells of the driver's end
    while True:
        newest = last_attempt(run)
        if newest is not None and newest != attempt:
            attempt, messages = newest, MessageReader(newest)
        ended = outcome(attempt) if attempt else None  # asked before the last rows are read
        told: list[dict[str, Any]] = messages.new() if messages else []
        for message in told:
            display.message(message)
        rows: list[dict[str, Any]] = metrics.new_rows()
        if rows:
            display.rows(rows)
        if rows or told:
            heard = time.monotonic()
        if ended is not None and attempt == last_attempt(run):
            return str(ended["status"])
        if time.monotonic() - heard > QUIET_SECONDS and not locked(run) and (seen or _long_quiet(run)):
            state = states([run])[run]
            if state != RUNNING:
                return state
            heard = time.monotonic()
        time.sleep(POLL_SECONDS)


def _long_quiet(run: Path) -> bool:
    """Whether nothing was written for longer than the start of a driver on another machine may take."""
    places = [run, run / "metrics.jsonl", *run.glob("attempts/*"), *run.glob("attempts/*/*")]
    written = 0.0
    for place in places:
        with suppress(OSError):
            written = max(written, place.stat().st_mtime)
    try:
        patience = saved.read(run / "config.yaml")["cluster"]["start_timeout_seconds"]
    except (ConfigError, KeyError, TypeError):
        patience = Cluster().start_timeout_seconds
    return time.time() - written > float(patience)
