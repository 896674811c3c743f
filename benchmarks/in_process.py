"""Runs of one worker that train in this process: for experiments of many runs, each shorter than its start.

Ray Train starts a process for every worker of every run and imports all anew there, ten seconds or more.
Here the product's own worker, with its loop, engine, checkpoints and export, is called in place of that.
Nothing restarts it, and nothing watches it while it trains.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from codex_ray.config.train import TrainingRun
from codex_ray.errors import ConfigError
from codex_ray.train import driver
from codex_ray.train.follow import Follower

RANK_OF_ONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}


@contextmanager
def in_this_process() -> Iterator[None]:
    """Have the driver's runs train here; a Ray session must be open, for rollouts and records."""
    import torch.distributed as dist

    os.environ.update(RANK_OF_ONE)
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())  # type: ignore[attr-defined]
    before, driver._fit = driver._fit, _train_here
    try:
        yield
    finally:
        driver._fit = before
        dist.destroy_process_group()
        for name in RANK_OF_ONE:
            os.environ.pop(name, None)


def _train_here(
    job: dict[str, Any], follower: Follower, settings: TrainingRun, begin: Callable[[], None]
) -> dict[str, Any]:
    """Stand in for the driver's part that starts Ray Train and follows it."""
    import torch

    from codex_ray.train.loop import State
    from codex_ray.train.messages import Messages
    from codex_ray.train.preemption import Notice
    from codex_ray.train.worker import Worker

    if settings.cluster.workers != 1:
        raise ConfigError(f"cluster.workers={settings.cluster.workers} cannot train here; give 1")
    begin()
    torch.set_num_threads(job["threads"])
    run, notice = job["run"], Notice(settings.cluster)
    messages = Messages(run.attempt_folder)
    try:
        with driver._stop_on_signal(run) as signals:
            outcome = Worker(job["task"], run, messages, notice, time.time(), State()).work()
            follower.interrupted = bool(signals)
    finally:
        notice.stop()
        follower.poll()
    return outcome
