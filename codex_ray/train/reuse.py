"""Workers that do one run after another, as those of a sweep's trials.

Starting Ray Train's controller and workers takes ten seconds of processor time and more, nearly all of it
imports. A run of Ray Train takes its workers along when it ends, and no second function. So one run of it
stays open, whose function does job after job, each a whole run of this project with a folder of its own. Jobs
are laid down in the head's store of keys, which every node reaches and which leaves no file. A worker that
fails ends the group as ever, and the next group begins with the job that is not done.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from codex_ray.config.train import TrainingRun
from codex_ray.imports import no_collection
from codex_ray.train.environment import worker_environment

POLL_SECONDS = 0.1
CLOSE_SECONDS = 60.0  # longest wait for workers without a job to end
NAMESPACE = b"codex_ray.jobs"


@dataclass(frozen=True)
class Desk:
    """Where a group's jobs lie, by number from 1, and what its ranks have done.

    Attributes:
        name: the group's.
        ranks: how many it has.
    """

    name: str
    ranks: int

    def give(self, number: int, job: dict[str, Any]) -> None:
        """Lay down the next job."""
        self._put("job", (number, job))

    def job(self) -> tuple[int, dict[str, Any]]:
        """Return the newest job and its number."""
        found: tuple[int, dict[str, Any]] = self._get("job")
        return found

    def end(self) -> None:
        """Say that there are no more jobs."""
        self._put("end", True)

    def ended(self) -> bool:
        """Whether there are no more jobs."""
        return self._get("end") is not None

    def finish(self, rank: int, number: int, outcome: dict[str, Any]) -> None:
        """Say what a job came to on a rank."""
        self._put(f"done {rank}", (number, outcome))

    def outcome(self, number: int) -> dict[str, Any] | None:
        """Return what a job came to; None before all ranks have done it."""
        outcome = None
        for rank in reversed(range(self.ranks)):
            done, outcome = self._get(f"done {rank}") or (0, None)
            if done < number:
                return None
        return outcome  # of rank 0

    def folder(self) -> Path:
        """Return where what befalls the newest job's workers is written."""
        _, job = self.job()
        return Path(job["run"].attempt_folder)

    def clear(self) -> None:
        """Take everything away."""
        from ray.experimental.internal_kv import _internal_kv_del

        _internal_kv_del(f"{self.name} ", del_by_prefix=True, namespace=NAMESPACE)

    def _put(self, key: str, value: Any) -> None:
        from ray import cloudpickle
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(f"{self.name} {key}", cloudpickle.dumps(value), namespace=NAMESPACE)

    def _get(self, key: str) -> Any:
        from ray import cloudpickle
        from ray.experimental.internal_kv import _internal_kv_get

        found = _internal_kv_get(f"{self.name} {key}", namespace=NAMESPACE)
        return None if found is None else cloudpickle.loads(found)


def train_jobs(config: dict[str, Any]) -> None:
    """Do job after job until there are no more; Ray Train runs this on every rank.

    Args:
        config: ``desk`` (:class:`Desk`), which has the first job.
    """
    import ray.train

    with no_collection():
        from codex_ray.train.worker import let_go, train_worker

    desk, rank = config["desk"], ray.train.get_context().get_world_rank()
    number, _ = desk.job()
    done = number if desk.outcome(number) is not None else number - 1  # by workers that were here before
    while True:
        number, job = desk.job()
        if number > done:
            desk.finish(rank, number, train_worker(job))
            done = number
            let_go()
        elif desk.ended():
            return
        else:
            time.sleep(POLL_SECONDS)


class Group:
    """One open run of Ray Train, begun with its first job.

    Attributes:
        alike: what its jobs have in common, for processes cannot change it.
    """

    def __init__(self, job: dict[str, Any], settings: TrainingRun, alike: Any) -> None:
        from codex_ray.train.trainer import make_trainer

        self.alike, self._free = alike, True
        self._desk = Desk(secrets.token_hex(8), settings.cluster.workers)
        self._number = 0
        trainer = make_trainer(job, settings, train_jobs, {"desk": self._desk}, self._desk.folder)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, args=[trainer], name="kept-workers", daemon=True)

    @property
    def waits(self) -> bool:
        """Whether it can be given a job."""
        return self._free and self._thread.is_alive()

    def do(self, job: dict[str, Any]) -> dict[str, Any]:
        """Have a job done and return what it came to.

        Raises:
            BaseException: what Ray Train ended with.
        """
        self._free, self._number = False, self._number + 1
        self._desk.give(self._number, job)
        if self._number == 1:
            self._thread.start()
        while self._thread.is_alive():
            if (outcome := self._desk.outcome(self._number)) is not None:
                self._free = True
                return outcome
            self._thread.join(POLL_SECONDS)
        raise self._error or RuntimeError("Ray Train ended before its job was done")

    def close(self) -> None:
        """End workers that wait for a job; others end with this process. Nothing is left of the jobs."""
        if self.waits:
            self._desk.end()
            self._thread.join(CLOSE_SECONDS)
        self._desk.clear()

    def _fit(self, trainer: Any) -> None:
        try:
            trainer.fit()
        except BaseException as error:  # for whoever waits for the job
            self._error = error


class Kept:
    """The workers of one run after another in this process; :meth:`close` ends them."""

    def __init__(self) -> None:
        self._group: Group | None = None

    def train(self, job: dict[str, Any], settings: TrainingRun) -> dict[str, Any]:
        """Have a job done by the workers that are here, where they are as it needs them."""
        environment = worker_environment(settings, job["threads"])
        alike = (settings.cluster, settings.deepspeed, settings.compute, environment)
        if self._group is None or not self._group.waits or self._group.alike != alike:
            if self._group is not None and self._group.waits:
                self.close()
            self._group = Group(job, settings, alike)
        return self._group.do(job)

    def close(self) -> None:
        """End the workers; at once where they wait for a job."""
        if self._group is not None:
            self._group.close()
        self._group = None


# What trains the runs that this thread drives, one after another; unset, each has workers of its own.
KEPT: ContextVar[Kept | None] = ContextVar("kept", default=None)


def fitting(job: dict[str, Any], settings: TrainingRun) -> Callable[[], dict[str, Any]]:
    """Return what trains a run to its end and says what it came to."""
    from codex_ray.train.trainer import make_trainer, train_worker

    kept = KEPT.get()
    # Compiled code and sampling leave much behind in a process; workers that come and go are Ray Train's own.
    if kept is not None and not (settings.cluster.elastic or settings.train.compile or job["task"].on_policy):
        return partial(kept.train, job, settings)
    trainer = make_trainer(job, settings, train_worker, job, partial(Path, job["run"].attempt_folder))

    def fit() -> dict[str, Any]:
        outcome: dict[str, Any] = trainer.fit().return_value
        return outcome

    return fit
