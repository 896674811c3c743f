"""One trial: a whole run of the base verb in an actor of Ray Tune's, which reports what it measures.

The run is the one that a person would start: its own folder with configuration, metrics and report. A thread
drives it, so that the actor can ask it to stop: then it ends cleanly, with a checkpoint, as after Ctrl-C, and
a sweep that is continued goes on from there. Ray Tune gives the actor one trial after another, and the
workers of one train the next; a trial that fails takes actor and workers along.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.result import DONE

from codex_ray.cluster.session import TRAIN_ENVIRONMENT
from codex_ray.config.sweep import Sweep
from codex_ray.config.verbs import find_verb
from codex_ray.errors import CodexRayError, nearest
from codex_ray.runs.state import COMPLETED, STOPPED, last_attempt, outcome
from codex_ray.track.metrics import MetricsFollower, Row
from codex_ray.train.checkpoint import CheckpointFolder, Found
from codex_ray.train.reuse import KEPT, Kept
from codex_ray.tune.names import NEVER_MEASURED, TRIALS, trial_name
from codex_ray.tune.space import trial_settings

POLL_SECONDS = 0.2
STOP_SECONDS = 300.0  # longest wait for a run that was asked to stop; it writes a checkpoint first
STALLED_SECONDS = 10.0  # for one that does nothing any more; it ends with this actor


class TrialRun(tune.Trainable):
    """A run of the base verb; each step of it lasts until the metrics are measured again.

    ``config["trial"]`` holds the ``number`` and ``values`` of the trial, and what else is its ``own``.
    """

    def setup(self, config: dict[str, Any], sweep: Sweep, folder: str, own: dict[str, Any]) -> None:
        """Take the trial; its first step begins the run, or goes on with it where its folder has one."""
        for key, value in TRAIN_ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        self._sweep, self._folder, self._own = sweep, Path(folder), own
        self._thread = threading.Thread()
        self._last: dict[str, Any] = {}
        self._kept = Kept()
        # Ray Tune may yet give this trial to another actor, and two runs cannot have one folder.
        self._taken: dict[str, Any] | None = config["trial"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """End this trial's run and take another, for the same processes, whose imports are done."""
        self._end()
        self._taken = new_config["trial"]
        return True

    def step(self) -> dict[str, Any]:
        """Wait until the metrics are measured again, or the run has ended.

        Raises:
            CodexRayError: the run failed, or has not gone on for too long.
        """
        if self._taken is not None:
            self._begin(self._taken)
            self._taken = None
        while True:
            ended = not self._thread.is_alive()
            if rows := self._rows.new_rows():
                self._moved = time.monotonic()
            self._waiting += [row for row in rows if self._measured(row)]
            self._names.update(*rows)
            if self._waiting:
                self._last = self._result(self._waiting.pop(0))
                return self._last
            if ended:
                return self._closing()
            longest = self._sweep.sweep.stall_seconds
            if time.monotonic() - self._moved > longest:
                self._patience = STALLED_SECONDS
                raise CodexRayError(
                    f"no line of metrics came within sweep.stall_seconds={longest:g}; "
                    f"the logs are in {self._run_folder / 'attempts'}"
                )
            self._thread.join(POLL_SECONDS)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the run's own folder holds its checkpoints, and the trial's number names it."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing; see :meth:`save_checkpoint`."""

    def cleanup(self) -> None:
        """End the run and the workers."""
        self._end()
        self._kept.close()

    def _end(self) -> None:
        """Ask the run to stop, and wait until it has."""
        if self._thread.is_alive():
            self._stop.parent.mkdir(parents=True, exist_ok=True)
            self._stop.touch()
            self._thread.join(self._patience)

    def _begin(self, trial: dict[str, Any]) -> None:
        name, runs = trial_name(trial["number"]), self._folder / TRIALS
        own = {"name": name, "runs": str(runs), "resume": "auto", "track.progress": "off"}
        settings = trial_settings(self._sweep, trial["values"], **own, **self._own, **trial.get("own", {}))
        self._run_folder = runs / name
        self._rows = MetricsFollower(self._run_folder / "metrics.jsonl")
        self._stop = self._run_folder / "stop"
        self._waiting: list[Row] = []
        self._names: set[str] = set()
        self._last = {}
        self._error: BaseException | None = None
        self._moved, self._patience = time.monotonic(), STOP_SECONDS
        self._thread = threading.Thread(target=self._run, args=[settings], name=name, daemon=True)
        self._thread.start()

    def _run(self, settings: Any) -> None:
        """Do the run, unless an earlier start of the sweep did it and ended before it wrote that down."""
        KEPT.set(self._kept)
        try:
            if self._complete():
                return
            saved, end = CheckpointFolder(self._run_folder / "checkpoints"), settings.train.stop_after
            # The line of this step may not have been written. A last segment has more to do than its steps.
            if end in saved.steps() and end != settings.train.steps:
                row = Found.read(saved.path(end)).manifest["figures"]
                self._waiting += [row] if self._measured(row) else []
                return
            find_verb(self._sweep.base).run(settings)
        except BaseException as error:  # Tune is told of it by step()
            self._error = error

    def _complete(self) -> bool:
        attempt = last_attempt(self._run_folder)
        return attempt is not None and (outcome(attempt) or {}).get("status") == COMPLETED

    def _measured(self, row: Row) -> bool:
        return all(isinstance(row.get(name), int | float) for name in self._sweep.sweep.metrics)

    def _result(self, row: Row) -> dict[str, Any]:
        names = ("step", "tokens", *self._sweep.sweep.metrics)
        return {name: row[name] for name in names if name in row}

    def _closing(self) -> dict[str, Any]:
        """Return the last result of a run that has ended.

        Raises:
            CodexRayError: it failed, or never measured what the sweep goes by.
        """
        if self._error is not None:
            reason = str(self._error).strip().split("\n")[0] or type(self._error).__name__
            raise CodexRayError(reason) from self._error
        if not self._last:
            wanted = self._sweep.sweep.metrics
            missing = next((name for name in wanted if name not in self._names), None)
            hint = nearest(missing, self._names) if missing else ""
            raise CodexRayError(
                f"the run ended and {NEVER_MEASURED} {' and '.join(wanted)}, which sweep.metrics names"
                f"{hint or '; see its metrics.jsonl for what it measures'}"
            )
        return {**self._last, "state": COMPLETED if self._complete() else STOPPED, DONE: True}
