"""Training runs: check everything first, run Ray Train in a thread, follow, and close the books.

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
from typing import TYPE_CHECKING, Any

from codex_ray.cluster import preflight
from codex_ray.cluster.head import HeadWatch
from codex_ray.cluster.session import default_variables, open_session, refuse_relative_in_job
from codex_ray.config.saved import save
from codex_ray.config.train import Checkpoints, Pretrain, TrainingRun
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.sources.storage import is_url
from codex_ray.errors import CodexRayError, Interrupted
from codex_ray.imports import no_collection
from codex_ray.track.alerts import Alerts
from codex_ray.track.evaluations import COLUMNS, task_rows
from codex_ray.track.progress import Progress, open_progress
from codex_ray.track.run_folder import RunFolder
from codex_ray.track.tracker import Status
from codex_ray.train.books import Books
from codex_ray.train.environment import threads_per_worker
from codex_ray.train.follow import Follower
from codex_ray.train.resume import refuse_other_settings, refuse_used_storage
from codex_ray.train.task import Pretraining, Task

if TYPE_CHECKING:
    from codex_ray.train.abilities import Followed

POLL_SECONDS = 0.2
ELASTIC_START_SECONDS = 20  # until workers that cannot be placed are tried with fewer


@dataclass(frozen=True)
class TrainingResult:
    """What a run left: its folder, its model folder if complete, and its closing figures."""

    run: Path
    model: Path | None
    completed: bool
    step: int
    figures: dict[str, float]


def pretrain(settings: Pretrain, progress: Progress | None = None) -> TrainingResult:
    """Train a decoder on a corpus folder.

    Raises:
        ConfigError: the settings cannot be right.
        CodexRayError: the corpus, the cluster or the run cannot go on.
        Interrupted: the user stopped it; the last checkpoint is written.
    """
    started = time.time()
    corpus = Path(settings.corpus).resolve()
    manifest = Manifest.load(corpus)
    manifest.verify(deep=False)
    followed: list[Followed] = []
    if settings.evaluation.tasks:
        from codex_ray.train.abilities import named_tasks

        followed = named_tasks(settings, manifest)
    task = Pretraining(settings, corpus, tuple(followed))
    refuse_rows(task, manifest, f"corpus {settings.corpus}", "train.batch_tokens or prepare more text")
    with opened_run(settings, "pretrain", progress) as (run, shown):
        return run_task(task, manifest, run, shown, started)


@contextmanager
def opened_run(
    settings: TrainingRun, verb: str, progress: Progress | None
) -> Iterator[tuple[RunFolder, Progress]]:
    """Hold the run's folder, which must be new or of the same settings, and show progress.

    Raises:
        ConfigError: the folder's run has other settings.
        CodexRayError: the folder is in use, or the second place of checkpoints is not this run's.
    """
    refuse_relative_in_job(settings.runs, "runs")
    with (
        open_progress(progress, settings.track.progress) as shown,
        RunFolder.open(settings.runs, settings.name, verb, settings.resume) as run,
    ):
        refuse_other_settings(run, settings)
        refuse_used_storage(run, settings)
        yield run, shown


def refuse_rows(task: Task, manifest: Manifest, what: str, remedy: str) -> None:
    """Refuse rows that cannot be shared out as the settings say; ``remedy`` goes after "lower".

    Raises:
        ConfigError: a batch cannot be divided.
        CodexRayError: rows cannot be shared, or are fewer than a batch takes.
    """
    cluster, length = task.settings.cluster, manifest.sequence_length
    batches = task.batches(length, cluster.replicas, fewest=cluster.min_workers)
    if length % cluster.sequence_parallel:
        raise CodexRayError(
            f"{what} has rows of {length} tokens, which "
            f"cluster.sequence_parallel={cluster.sequence_parallel} cannot share evenly; give a divisor"
        )
    rows = manifest.splits["train"].rows
    if rows < batches.most_rows:
        raise CodexRayError(
            f"{what} has {rows} training rows of {length} tokens and one batch takes {batches.most_rows}; "
            f"lower {remedy}"
        )


def with_absolute_storage(checkpoints: Checkpoints) -> Checkpoints:
    """Name a folder as the workers, and a later start from elsewhere, find it."""
    storage = checkpoints.storage
    if storage is None or is_url(storage):
        return checkpoints
    refuse_relative_in_job(storage, "checkpoints.storage")
    return replace(checkpoints, storage=str(Path(storage).expanduser().absolute()))


def run_task(
    task: Task, manifest: Manifest, run: RunFolder, progress: Progress, started: float
) -> TrainingResult:
    """Train in an opened run folder, from its newest checkpoint on.

    Args:
        task: what the workers do; ``manifest``: of its rows.
        run: the folder; ``started``: unix time of the user's command.

    Raises:
        CodexRayError: the cluster or the run cannot go on.
        Interrupted: the user stopped it; the last checkpoint is written.
    """
    settings = task.settings
    checkpoints = with_absolute_storage(settings.checkpoints)
    save(settings, run.config)
    books = Books(run, settings, manifest.life_id, task.sections)
    # Importing torch takes as long as Ray takes to start.
    threading.Thread(target=import_module, args=["torch"], daemon=True).start()
    task = replace(task, settings=replace(settings, checkpoints=checkpoints))  # type: ignore[type-var]
    with (
        Alerts(settings.track.alerts, run.name) as alerts,
        open_session(settings.cluster, more_cpus=task.actor_cpus) as resources,
        task.opened() as ready,
    ):
        threads = threads_per_worker(settings.cluster)
        job = {"task": ready, "run": run, "threads": threads, "started": started}
        preflight.check(settings.cluster, resources, streams=settings.stream == "ray")
        preflight.check_nodes(settings.cluster, preflight.nodes())
        follower = Follower(run, settings, books.tracker, alerts, progress)
        facts = {
            "verb": _verb(task),
            "corpus_fingerprint": manifest.fingerprint,
            "resources": dict(resources),
        }
        try:
            with progress.stage(_verb(task), total=settings.train.steps, unit="steps"):
                outcome = _fit(job, follower, settings, lambda: books.open(facts))
        except BaseException as error:
            follower.close()
            status: Status = "KILLED" if isinstance(error, Interrupted | KeyboardInterrupt) else "FAILED"
            books.close_after(error, status, follower.summary(time.time() - started), progress)
            raise
        follower.close()
        figures = follower.summary(time.time() - started)
        completed = outcome["status"] == "completed"
        if completed and (told := books.register()):
            progress.note(told)
        books.close("FINISHED" if completed else "KILLED", figures)
        if not completed and follower.interrupted:
            raise Interrupted(
                f"stopped at step {outcome['step']}; its checkpoint is in {run.checkpoints}; continue with: "
                f"codex-ray {_verb(task)} --config {run.config} name={run.name} resume=must"
            )
        if tasks := task_rows(figures):
            progress.table(f"what {run.name} could do before and after", tasks, COLUMNS)
        alerts.send("end", f"{outcome['status']} at step {outcome['step']}")
    return TrainingResult(run.path, run.model if completed else None, completed, outcome["step"], figures)


def _verb(task: Task) -> str:
    return type(task.settings).__name__.lower()


def _fit(
    job: dict[str, Any], follower: Follower, settings: TrainingRun, begin: Callable[[], None]
) -> dict[str, Any]:
    """Run Ray Train in a thread and follow it from this one, after ``begin`` has opened the books.

    Raises:
        CodexRayError: a worker ended the run for good, workers kept failing, none ever started, or the
            cluster's head is gone.
    """
    with no_collection():
        import ray

        from codex_ray.train.reuse import fitting

        train = fitting(job, settings)
    box: dict[str, Any] = {}
    run: RunFolder = job["run"]

    # Read by Ray in fit(): where fewer workers are enough, they are soon tried.
    start_timeout = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(ELASTIC_START_SECONDS)}
    soon = start_timeout if settings.cluster.elastic else {}

    def fit() -> None:
        try:
            with default_variables(soon):
                box["outcome"] = train()
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
    outcome: dict[str, Any] = box["outcome"]
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
