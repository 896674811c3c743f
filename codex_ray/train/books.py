"""What a training run records besides its figures: environment, trackers, summary and report."""

from __future__ import annotations

import time
from typing import Any

from codex_ray.config.fields import to_dict
from codex_ray.config.train import TrainingRun
from codex_ray.errors import CodexRayError
from codex_ray.files import write_json
from codex_ray.plugins import find
from codex_ray.track import MlflowRun, Progress, RunFolder, write_environment, write_report
from codex_ray.track.report import Sections
from codex_ray.track.tensorboard import TensorBoardRun
from codex_ray.track.tracker import Status, Trackers
from codex_ray.track.wandb import WandbRun

# As people say it, and `runs list`.
OUTCOMES: dict[Status, str] = {"FINISHED": "completed", "KILLED": "stopped", "FAILED": "failed"}


class Books:
    """Opened while the workers start, closed however the run ends."""

    def __init__(
        self, run: RunFolder, settings: TrainingRun, life_id: str, sections: Sections | None = None
    ) -> None:
        self._run, self._settings, self._life_id, self._sections = run, settings, life_id, sections
        track = settings.track
        mlflow = MlflowRun(run.path, track.mlflow, runs=run.path.parent)
        self._mlflow = mlflow
        self.tracker = Trackers(
            [
                mlflow,
                TensorBoardRun(run.path, enabled=track.tensorboard),
                WandbRun(run.path, mode=track.wandb, project=track.wandb_project),
                *(find("trackers", name, "track.trackers")(run.path) for name in track.trackers),
            ]
        )

    def open(self, facts: dict[str, Any]) -> None:
        """Write environment.json and begin the trackers' records."""
        plain = to_dict(self._settings)
        environment = write_environment(self._run.path, plain, mlflow_uri=self._mlflow.uri, extra=facts)
        commit = (environment["commit"] or {}).get("commit")
        self.tracker.start(self._run.name, parameters=plain, life_id=self._life_id, commit=commit)

    def register(self) -> str | None:
        """Put the model into MLflow's registry where that is wanted; returns what to tell the user."""
        name = self._settings.track.mlflow.register
        return None if name is None else self._mlflow.register(name, self._run.model)

    def close(self, status: Status, figures: dict[str, float]) -> None:
        """Write summary.json and the report, and end the trackers' records."""
        run = self._run
        try:
            write_json(run.summary, figures)
            if self._settings.track.report:
                write_report(run.path, self._sections)
            for artifact in (run.config, run.environment, run.summary, run.report, run.samples, run.solution):
                self.tracker.log_artifact(artifact)
        finally:
            self.tracker.end(status)
            write_json(run.outcome, {"status": OUTCOMES[status], "time": time.time()})

    def close_after(
        self, error: BaseException, status: Status, figures: dict[str, float], shown: Progress
    ) -> None:
        """Close after an error, which must stay the one the user sees: a further one is only noted."""
        if not isinstance(error, CodexRayError | KeyboardInterrupt):
            self._run.record_error("driver", 0, None, "driver", error)
        try:
            self.close(status, figures)
        except CodexRayError as second:
            shown.note(f"the run's records are incomplete: {second}")
