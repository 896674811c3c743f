"""What all places that a run is recorded in have in common: a thread that records, and one warning.

MLflow, TensorBoard and Weights & Biases are each a :class:`Tracker`; :class:`Trackers` is all that a run has.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from codex_ray.files import read_json, write_json
from codex_ray.track.environment import masked

END_SECONDS = 60.0  # longest wait for the thread to finish what was given to it
UNLOGGED = ("step", "time", "batch")  # the axes, and a digest that means nothing as a number
Status = Literal["FINISHED", "FAILED", "KILLED"]

_LOG = logging.getLogger(__name__)


class Tracker:
    """One place that a run is recorded in.

    What is recorded is done by a thread, so that a slow or hanging server never holds up training; what
    fails there becomes one warning. What a resumed run needs to go on is kept in a file of the run.

    Args:
        state_path: that file.
        place: where records go, for people.
    """

    thread_name = "codex-ray-tracker"

    def __init__(self, state_path: Path, place: str) -> None:
        self._state_path, self._place = state_path, place
        self._state: dict[str, Any] = {}
        self._ready = False
        self._warned = False
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(
        self,
        name: str,
        *,
        parameters: Mapping[str, Any],
        life_id: str | None = None,
        commit: str | None = None,
    ) -> None:
        """Begin the record of run ``name`` with its settings, or continue it; returns soon."""
        raise NotImplementedError

    def log_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Record the numbers of metrics rows; rows of steps recorded before are left out."""
        if rows:
            self._do(lambda: self._record(rows))

    def log_system(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Record numbers that belong to a time rather than to a step; each has the step it fell into."""
        if rows:
            self._do(lambda: self._write(rows) if self._ready else None)

    def log_artifact(self, path: Path) -> None:
        """Record a file, such as the report, where the place takes files; a missing one is left out."""

    def end(self, status: Status = "FINISHED", seconds: float = END_SECONDS) -> None:
        """Finish what was given, close the record, and wait for both for ``seconds`` at the most."""
        if self._thread is None:
            return
        self._do(lambda: self._finish(status) if self._ready else None)
        self._work.put(None)
        self._thread.join(timeout=seconds)
        if self._thread.is_alive():
            self._warn(TimeoutError(f"no answer for {seconds:g} seconds"))
        self._thread = None

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        raise NotImplementedError

    def _finish(self, status: Status) -> None:
        raise NotImplementedError

    def _launch(self, begin: Callable[[], None]) -> None:
        """Start the thread with what opens the record; only if that ends well is anything recorded."""

        def first() -> None:
            begin()
            self._ready = True

        self._thread = threading.Thread(target=self._serve, name=self.thread_name, daemon=True)
        self._thread.start()
        self._do(first)

    def _record(self, rows: Sequence[Mapping[str, Any]]) -> None:
        last = self._state.get("last_step", -1)
        fresh = [row for row in rows if isinstance(step := row.get("step"), int) and step > last]
        if not self._ready or not fresh:
            return
        self._write(fresh)
        self._state["last_step"] = max(row["step"] for row in fresh)
        write_json(self._state_path, self._state)

    def _known(self) -> dict[str, Any]:
        """What an earlier start left."""
        if not self._state_path.exists():
            return {}
        known: dict[str, Any] = read_json(self._state_path, "the record's state")
        return known

    def _do(self, action: Callable[[], None]) -> None:
        if self._thread is not None:
            self._work.put(action)

    def _serve(self) -> None:
        while (action := self._work.get()) is not None:
            try:
                action()
            except Exception as error:  # whatever a tracking server does, training goes on
                self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            reason = masked(str(error).strip().split("\n")[0])[:300]
            _LOG.warning(
                "%s does not record this run or parts of it (%s: %s); training goes on, and metrics.jsonl "
                "has every step",
                self._place,
                type(error).__name__,
                reason,
            )
        self._warned = True


class Trackers:
    """Several trackers as one; each is off, or records, or fails, for itself."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = trackers

    def start(
        self, name: str, *, parameters: Mapping[str, Any], life_id: str | None, commit: str | None
    ) -> None:
        """Begin or continue the records."""
        for one in self._trackers:
            one.start(name, parameters=parameters, life_id=life_id, commit=commit)

    def log_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Record metrics rows."""
        for one in self._trackers:
            one.log_rows(rows)

    def log_system(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Record the load of nodes."""
        for one in self._trackers:
            one.log_system(rows)

    def log_artifact(self, path: Path) -> None:
        """Record a file."""
        for one in self._trackers:
            one.log_artifact(path)

    def end(self, status: Status) -> None:
        """Close the records."""
        for one in self._trackers:
            one.end(status)


def numbers(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Give the figures of a row that can be drawn, by name."""
    for name, value in row.items():
        if name not in UNLOGGED and isinstance(value, int | float):
            yield name, float(value)


def moment(row: Mapping[str, Any]) -> float:
    """Return a row's unix time, or the present one."""
    at = row.get("time")
    return float(at) if isinstance(at, int | float) else time.time()
