"""The driver's view of a running training: figures from the run folder to the display and MLflow.

Workers only write lines to files; everything slower happens here, beside training, not in it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from codex_ray.config.train import TrainingRun
from codex_ray.errors import CodexRayError
from codex_ray.track.alerts import Alerts
from codex_ray.track.metrics import MetricsFollower, read_run
from codex_ray.track.progress import Progress
from codex_ray.track.run_folder import RunFolder
from codex_ray.track.system import newest_samples
from codex_ray.track.tracker import Trackers
from codex_ray.train.alarms import Alarms
from codex_ray.train.display import Display
from codex_ray.train.failures import Failures
from codex_ray.train.messages import MessageReader, Messages
from codex_ray.train.pulse import HangWatch

SEND_SECONDS = 5.0  # between two batches of figures
LOAD_SECONDS = 60.0  # between two samples of the nodes' load for the trackers; the files have all


class Follower:
    """Reads what the workers write, until :meth:`close`."""

    def __init__(
        self, run: RunFolder, settings: TrainingRun, tracker: Trackers, alerts: Alerts, progress: Progress
    ) -> None:
        self.interrupted = False
        self.fatal: CodexRayError | None = None
        self.startup: dict[str, float] | None = None
        self._settings, self._tracker, self._progress = settings, tracker, progress
        self._display = Display(progress)
        self._metrics = MetricsFollower(run.metrics)
        self._messages = MessageReader(run.attempt_folder)
        self._watch = HangWatch(run.attempt_folder, settings.cluster.hang_seconds)
        self._alerts = alerts
        scaled = settings.compute.dtype == "float16"
        self._alarms = Alarms(settings.track.alerts, alerts, scaled=scaled)
        self._failures = Failures(settings.cluster.max_failures, run.name)
        self._run = run
        self._first_step = 0  # that this start began from
        self._parameters: int | None = None
        self._validations = MetricsFollower(run.validation)
        self._evaluations = MetricsFollower(run.evaluation)
        for earlier in (self._validations, self._evaluations):
            earlier.new_rows()  # of an earlier start
        # Of an earlier attempt's rows, MLflow does not record again what it has, and is given what a
        # crash kept from it.
        self._unsent = self._metrics.new_rows()
        self._sent_at = self._load_sent_at = time.monotonic()

    @property
    def step(self) -> int:
        """The newest optimizer step of this start."""
        return self._display.step

    def poll(self) -> None:
        """Take in what is new, and see to ranks that hang."""
        hang = self._watch.look()
        if hang is not None:
            self._progress.note(hang.sentence)
            self._alerts.send("stall", hang.sentence, hang.step)
            self._run.record_error("worker", hang.rank, hang.step, hang.phase, TimeoutError(hang.sentence))
        for message in self._messages.new():
            self._take(message)
        rows = self._metrics.new_rows()
        if rows:
            self._unsent += rows
            self._alarms.rows(rows)
            self._failures.stepped()
            self._display.rows(rows)
        later: list[dict[str, Any]] = self._validations.new_rows()
        if later:
            self._display.validated(later)
            self._tracker.log_system(later)
        # Others stand on their steps' lines.
        apart: list[dict[str, Any]] = self._evaluations.new_rows()
        for row in apart:
            if row["step"] == 0 or row.get("apart"):
                values = {f"evaluation/{name}": task["value"] for name, task in row["tasks"].items()}
                self._tracker.log_system([{"step": row["step"], "time": row["time"]} | values])
        self._alarms.look()
        self.fatal = self.fatal or self._failures.overdue(self._settings.cluster.replacement_timeout_seconds)
        if self._unsent and time.monotonic() - self._sent_at > SEND_SECONDS:
            self._send()
        if time.monotonic() - self._load_sent_at > LOAD_SECONDS:
            self._send_load()

    def close(self) -> None:
        """Take in and send what is left."""
        self.poll()
        self._send()
        self._send_load()

    def summary(self, seconds: float) -> dict[str, float]:
        """Return the run's closing figures, as flat names and numbers; ``seconds`` are this start's."""
        rows: list[dict[str, Any]] = read_run(self._run.path)
        if not rows:
            return {"wall_seconds": seconds}
        last = rows[-1]
        figures = {
            "steps": float(last["step"]),
            "tokens": float(last["tokens"]),
            "tokens_per_second": statistics.median(row["tokens_per_second"] for row in rows),
            "mfu": statistics.median(row["mfu"] for row in rows),
            "train_seconds": over_steps(rows, "step_seconds"),
            "data_wait_share": over_steps(rows, "data_seconds") / over_steps(rows, "step_seconds"),
            "wall_seconds": seconds,
            "effective_time_ratio": over_steps(rows, "step_seconds", after=self._first_step) / seconds,
            **self._failures.figures(),
        }
        if self._parameters is not None:
            figures["parameters"] = float(self._parameters)
        if last["loss"] is not None:
            figures["loss"] = last["loss"]
        figures |= {name: value for name, value in last.items() if name.startswith(("source/", "discover/"))}
        stalls = [row["checkpoint_stall_seconds"] for row in rows if "checkpoint_stall_seconds" in row]
        if stalls:
            step_seconds = statistics.median(row["step_seconds"] for row in rows)
            figures["checkpoint_stall_seconds"] = sum(stalls)
            figures["checkpoint_stall_steps"] = statistics.mean(stalls) / step_seconds
        for row in reversed(rows):
            if "validation_loss" in row:
                figures |= {name: value for name, value in row.items() if name.startswith("validation")}
                break
        if self._run.evaluation.exists():
            from codex_ray.train.abilities import closing_figures

            figures |= closing_figures(self._run.evaluation)
        figures |= of_rollouts(rows)
        if self.startup:
            figures |= {f"startup/{stage}": value for stage, value in self.startup.items()}
            figures["first_step_seconds"] = sum(self.startup.values())
        return figures

    def _take(self, message: dict[str, Any]) -> None:
        self._display.message(message)
        kind = message["kind"]
        if kind == "startup":
            self.startup = self.startup or message["seconds"]  # of the first of this start's beginnings
        elif kind == "model":
            self._parameters = message["parameters"]
        elif kind == "spike":
            self._alerts.send("spike", message["text"], message["step"])
        elif kind == "begin":
            if not self._failures.begun:
                self._first_step = message["step"]
            self._failures.began(message["step"])
        elif kind == "leaving":
            self._failures.leaving()
        elif kind == "failure":
            self._note_failure(message)
        elif kind == "fatal" and self.fatal is None:
            self.fatal = CodexRayError(message["text"])
            self.fatal.exit_code = message["exit_code"]

    def _note_failure(self, message: dict[str, Any]) -> None:
        told = self._failures.failed(message, self._run.first_error_line())
        if told:
            self._progress.note(told)
        if self._failures.fatal and self.fatal is None:
            self.fatal = self._failures.fatal
            Messages(self._run.attempt_folder).fatal(self.fatal)  # workers that begin anew end at once

    def _send(self) -> None:
        if self._unsent:
            self._tracker.log_rows(self._unsent)
        self._unsent = []
        self._sent_at = time.monotonic()

    def _send_load(self) -> None:
        self._load_sent_at = time.monotonic()
        samples = newest_samples(self._run.attempt_folder)
        self._tracker.log_system(
            [
                {f"system/{node}/{name}": value for name, value in sample.items() if name != "time"}
                | {"time": sample["time"], "step": self.step}
                for node, sample in samples.items()
            ]
        )


def of_rollouts(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean reward of the last tenth of the batches, and what became of all sequences."""
    sampled = [row for row in rows if "rollout/submitted_total" in row]
    if not sampled:
        return {}
    figures = {name: value for name, value in sampled[-1].items() if name.endswith("_total")}
    rewards = [row["reward"] for row in sampled[-max(1, len(sampled) // 10) :] if "reward" in row]
    return figures | ({"reward": statistics.mean(rewards)} if rewards else {})


def over_steps(rows: Sequence[Mapping[str, Any]], name: str, after: int = 0) -> float:
    """Add up a figure over the optimizer steps after ``after``.

    Steps without a row of their own, as ``track.every`` leaves them, count as the next row's.
    """
    total, before = 0.0, after
    for row in rows:
        if row["step"] > before:
            total += row[name] * (row["step"] - before)
            before = row["step"]
    return total
