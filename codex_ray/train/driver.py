"""The ``pretrain`` verb: check everything first, run Ray Train in a thread, follow, and close the books.

The main thread keeps the signals. On the first Ctrl-C or SIGTERM it asks the workers, through a
file in the run folder, to stop after the current step; they write a checkpoint, and the run can
be resumed. A second signal ends at once.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from codex_ray.cluster import preflight
from codex_ray.cluster.head import HeadWatch
from codex_ray.cluster.session import default_variables, open_session, refuse_relative_in_job
from codex_ray.config.fields import to_dict
from codex_ray.config.saved import save
from codex_ray.config.train import Checkpoints, Pretrain
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.sources.storage import is_url
from codex_ray.errors import CodexRayError, Interrupted
from codex_ray.imports import no_collection
from codex_ray.track.alerts import Alerts
from codex_ray.track.progress import Progress, open_progress
from codex_ray.track.run_folder import RunFolder
from codex_ray.track.tracker import Status
from codex_ray.train.batches import Batches
from codex_ray.train.books import Books
from codex_ray.train.environment import threads_per_worker
from codex_ray.train.follow import Follower
from codex_ray.train.resume import refuse_other_settings, refuse_used_storage

POLL_SECONDS = 0.2
ELASTIC_START_SECONDS = 20  # until workers that cannot be placed are tried with fewer


@dataclass(frozen=True)
class PretrainResult:
    """What a run left: its folder, its model folder if complete, and its closing figures."""

    run: Path
    model: Path | None
    completed: bool
    step: int
    figures: dict[str, float]


def pretrain(settings: Pretrain, progress: Progress | None = None) -> PretrainResult:
    """Train a decoder on a corpus folder.

    Raises:
        ConfigError: the settings cannot be right.
        CodexRayError: the corpus, the cluster or the run cannot go on.
        Interrupted: the user stopped it; the last checkpoint is written.
    """
    refuse_relative_in_job(settings.runs, "runs")
    settings = replace(settings, checkpoints=with_absolute_storage(settings.checkpoints))
    started = time.time()
    manifest = Manifest.load(Path(settings.corpus))
    manifest.verify(deep=False)
    cluster = settings.cluster
    batches = Batches.of(
        settings.train,
        manifest.sequence_length,
        cluster.replicas,
        fewest=cluster.min_workers,
    )
    if manifest.sequence_length % cluster.sequence_parallel:
        raise CodexRayError(
            f"corpus {settings.corpus} has rows of {manifest.sequence_length} tokens, which "
            f"cluster.sequence_parallel={cluster.sequence_parallel} cannot share evenly; give a divisor"
        )
    rows = manifest.splits["train"].rows
    if rows < batches.most_rows:
        raise CodexRayError(
            f"corpus {settings.corpus} has {rows} training rows of {manifest.sequence_length} tokens and one "
            f"batch takes {batches.most_rows}; lower train.batch_tokens or prepare more text"
        )
    with (
        open_progress(progress, settings.track.progress) as shown,
        RunFolder.open(settings.runs, settings.name, "pretrain", settings.resume) as run,
        Alerts(settings.track.alerts, run.name) as alerts,
    ):
        refuse_other_settings(run, settings)
        refuse_used_storage(run, settings)
        return _in_folder(settings, manifest, run, alerts, shown, started)


def with_absolute_storage(checkpoints: Checkpoints) -> Checkpoints:
    """Name a folder as the workers, and a later start from elsewhere, find it."""
    storage = checkpoints.storage
    if storage is None or is_url(storage):
        return checkpoints
    refuse_relative_in_job(storage, "checkpoints.storage")
    return replace(checkpoints, storage=str(Path(storage).expanduser().absolute()))


def _in_folder(
    settings: Pretrain,
    manifest: Manifest,
    run: RunFolder,
    alerts: Alerts,
    progress: Progress,
    started: float,
) -> PretrainResult:
    absolute = to_dict(settings) | {"corpus": str(Path(settings.corpus).resolve())}
    save(settings, run.config)
    books = Books(run, settings, manifest.life_id)
    # Importing torch takes as long as Ray takes to start.
    threading.Thread(target=import_module, args=["torch"], daemon=True).start()
    with open_session(settings.cluster) as resources:
        preflight.check(settings.cluster, resources, streams=settings.stream == "ray")
        preflight.check_nodes(settings.cluster, preflight.nodes())
        follower = Follower(run, settings, books.tracker, alerts, progress)
        facts = {"corpus_fingerprint": manifest.fingerprint, "resources": dict(resources)}
        try:
            with progress.stage("pretrain", total=settings.train.steps, unit="steps"):
                outcome = _fit(absolute, run, follower, settings, started, lambda: books.open(facts))
        except BaseException as error:
            follower.close()
            status: Status = "KILLED" if isinstance(error, Interrupted | KeyboardInterrupt) else "FAILED"
            books.close_after(error, status, follower.summary(time.time() - started), progress)
            raise
        follower.close()
        figures = follower.summary(time.time() - started)
        books.close("FINISHED" if outcome["status"] == "completed" else "KILLED", figures)
    completed = outcome["status"] == "completed"
    if not completed and follower.interrupted:
        raise Interrupted(
            f"stopped at step {outcome['step']}; its checkpoint is in {run.checkpoints}; "
            f"continue with: codex-ray pretrain --config {run.config} name={run.name} resume=must"
        )
    alerts.send("end", f"{outcome['status']} at step {outcome['step']}")
    return PretrainResult(run.path, run.model if completed else None, completed, outcome["step"], figures)


def _fit(
    job_settings: dict[str, Any],
    run: RunFolder,
    follower: Follower,
    settings: Pretrain,
    started: float,
    begin: Callable[[], None],
) -> dict[str, Any]:
    """Run Ray Train in a thread and follow it from this one, after ``begin`` has opened the books.

    Raises:
        CodexRayError: a worker ended the run for good, workers kept failing, none ever started, or the
            cluster's head is gone.
    """
    with no_collection():
        import ray

        from codex_ray.train.trainer import make_trainer

    box: dict[str, Any] = {}
    threads = threads_per_worker(settings.cluster)
    trainer = make_trainer(
        {"settings": job_settings, "run": run, "threads": threads, "started": started}, settings
    )

    # Read by Ray in fit(): where fewer workers are enough, they are soon tried.
    start_timeout = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(ELASTIC_START_SECONDS)}
    soon = start_timeout if settings.cluster.elastic else {}

    def fit() -> None:
        try:
            with default_variables(soon):
                box["result"] = trainer.fit()
        except BaseException as error:  # handed to the main thread, which tells the user
            box["error"] = error

    head = HeadWatch(ray.get_runtime_context().gcs_address)
    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    deadline = time.monotonic() + settings.cluster.start_timeout_seconds
    with _stop_on_signal(run) as signals:
        thread.start()
        begin()  # slow imports and records, while the workers start
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            follower.poll()
            head.look()
            follower.interrupted = bool(signals)
            if follower.fatal:
                raise follower.fatal
            if follower.startup is None and time.monotonic() > deadline and not follower.step:
                raise CodexRayError(
                    f"no training step was done within cluster.start_timeout_seconds="
                    f"{settings.cluster.start_timeout_seconds:g}; the workers' logs are in "
                    f"{run.attempt_folder}"
                )
        follower.poll()
    if follower.fatal:
        raise follower.fatal
    if "error" in box:
        raise head.gone() or _failure(box["error"], run) from box["error"]
    outcome: dict[str, Any] = box["result"].return_value
    return outcome


def _failure(error: BaseException, run: RunFolder) -> CodexRayError:
    """Say in one sentence why Ray Train gave up, from the first error that a worker recorded."""
    told = getattr(error, "controller_failure", None)
    if isinstance(told, CodexRayError):
        return told
    reason = str(error).strip().splitlines()[-1][:300] if str(error).strip() else type(error).__name__
    return CodexRayError(
        f"Ray Train could not go on ({run.first_error_line() or reason}); see {run.errors}, then continue "
        f"with resume=auto name={run.name}"
    )


@contextmanager
def _stop_on_signal(run: RunFolder) -> Iterator[list[int]]:
    """Ask for a clean stop at the first SIGINT or SIGTERM, and raise at the second."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise Interrupted("stopped at once; the newest complete checkpoint is kept")
        run.stop.touch()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
