"""A sweep in MLflow: one run that its trials' runs are below, in the store that the user has anyway."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codex_ray.config.fields import to_dict
from codex_ray.config.sweep import Sweep
from codex_ray.config.train import Pretrain, TrainingRun
from codex_ray.corpus.manifest import Manifest
from codex_ray.errors import Interrupted
from codex_ray.model.lineage import life_of
from codex_ray.track.mlflow import ROLE_TAG, MlflowRun, tracking_uri
from codex_ray.track.run_folder import RunFolder
from codex_ray.track.tracker import Status

START_SECONDS = 60.0  # longest wait for MLflow to have made the sweep's run


@contextmanager
def opened_books(settings: Sweep, base: TrainingRun, run: RunFolder) -> Iterator[dict[str, Any]]:
    """Record the sweep in MLflow for the length of the block.

    Yields:
        What each trial is told of it, by setting; nothing where records are switched off or cannot be made.
    """
    runs = run.path.parent
    mlflow = MlflowRun(run.path, base.track.mlflow, runs=runs)
    mlflow.start(run.name, parameters=to_dict(settings), life_id=_life(base), tags={ROLE_TAG: "sweep"})
    status: Status = "FAILED"
    try:
        yield _told(mlflow, base, runs)
        status = "FINISHED"
    except Interrupted:
        status = "KILLED"
        raise
    finally:
        for artifact in (run.config, run.summary, run.report):
            mlflow.log_artifact(artifact)
        mlflow.end(status)


def _told(mlflow: MlflowRun, base: TrainingRun, runs: Path) -> dict[str, Any]:
    if mlflow.uri is None:
        return {}
    deadline = time.monotonic() + START_SECONDS
    while mlflow.run_id is None and time.monotonic() < deadline:
        time.sleep(0.1)
    told = {"track.mlflow.uri": tracking_uri(base.track.mlflow, runs)}
    return told if mlflow.run_id is None else {**told, "track.mlflow.parent": mlflow.run_id}


def _life(base: TrainingRun) -> str | None:
    """The life that the trials belong to: of the corpus, or of the model that they begin from."""
    return Manifest.load(base.corpus).life_id if isinstance(base, Pretrain) else life_of(base.model)  # type: ignore[attr-defined]
