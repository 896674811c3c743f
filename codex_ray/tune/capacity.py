"""How many trials run at a time: as many as the cluster can hold whole, so that none waits for ever."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from codex_ray.cluster.preflight import STREAM_CPUS_PER_WORKER
from codex_ray.config.discover import Discover
from codex_ray.config.finetune import ON_POLICY, Finetune
from codex_ray.config.sweep import Sweep
from codex_ray.config.train import TrainingRun
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.tune.space import Space, trial_settings


@dataclass(frozen=True)
class Capacity:
    """What a trial takes, and how many are held at a time.

    Attributes:
        cpus: logical CPUs of a trial, its data included.
        gpus: GPUs of a trial.
        concurrent: trials at a time.
        threads: compute threads of a worker; None leaves that to the trial.
        asked: what the user asked for at a time.
        actor_cpus: of ``cpus``, those of what samples and scores beside the workers.
    """

    cpus: float
    gpus: float
    concurrent: int
    threads: int | None
    asked: int | None
    actor_cpus: float

    @property
    def more_cpus(self) -> float:
        """Logical CPUs that embedded Ray needs beside those of one run."""
        return (self.concurrent - 1) * self.cpus + self.actor_cpus

    def on(self, resources: Mapping[str, float], runs: int, *, embedded: bool) -> Capacity:
        """Return the capacity of the cluster that was joined; embedded Ray has what it was started for.

        Args:
            resources: of the whole cluster.
            runs: how many trials' workers its nodes can hold, each of them whole on a node.
            embedded: whether Ray was started for this sweep.

        Raises:
            CodexRayError: not even one trial can be held, or fewer than were asked for.
        """
        if embedded:
            return self
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        counts = [int(resources.get(kind, 0.0) / each + 1e-9) for kind, each in wanted.items() if each]
        held = min([runs, *counts])
        if held < (self.asked or 1):
            kinds = [kind for kind, each in wanted.items() if each]
            each = ", ".join(f"{wanted[kind]:g} {kind}s" for kind in kinds)
            there = ", ".join(f"{resources.get(kind, 0.0):g} {kind}s" for kind in kinds)
            raise CodexRayError(
                f"{self.asked or 1} trials at a time need {each} each and the cluster has {there}, for "
                f"{held}; lower cluster.workers{' or sweep.concurrent' if self.asked else ''}"
            )
        return replace(self, concurrent=self.asked or held, threads=None)


def capacity_of(sweep: Sweep, base: TrainingRun) -> Capacity:
    """Return what embedded Ray would be started for: trials that share this machine's cores."""
    cluster = base.cluster
    cores = len(os.sched_getaffinity(0))
    workers = max([cluster.workers, *_tried(sweep, "cluster.workers")])
    concurrent = sweep.sweep.concurrent or max(1, cores // workers)
    threads = cluster.threads_per_worker or max(1, cores // (workers * concurrent))
    actors, asked = _actor_cpus(base), sweep.sweep.concurrent
    cpus = workers * (cluster.cpus_per_worker + STREAM_CPUS_PER_WORKER) + actors
    return Capacity(cpus, workers * cluster.gpus_per_worker, concurrent, threads, asked, actors)


def longest_tokens(sweep: Sweep, space: Space) -> int:
    """Return the tokens of the longest trial, by which schedulers place their rungs.

    Raises:
        ConfigError: trials are given up early and their length in tokens is not known beforehand.
    """
    if sweep.sweep.scheduler in ("none", "pbt"):
        return 1
    longest = 0
    for axis in space.axes:
        for value in axis.values:
            settings: TrainingRun = trial_settings(sweep, dict(axis.when) | {axis.key: value})
            on_policy = isinstance(settings, Finetune) and settings.method in ON_POLICY
            if settings.train.steps is None or on_policy or isinstance(settings, Discover):
                raise ConfigError(
                    f"sweep.scheduler={sweep.sweep.scheduler} goes by tokens, and how many a trial has is "
                    "not known; give train.steps and a method without rollouts, or sweep.scheduler=none"
                )
            longest = max(longest, settings.train.steps * settings.train.batch_tokens)
    return longest


def _actor_cpus(base: TrainingRun) -> float:
    """Return the CPUs of what samples and scores beside a trial's workers."""
    if isinstance(base, Discover):
        return base.rollout.cpus(scored=True)
    on_policy = isinstance(base, Finetune) and base.method in ON_POLICY
    return base.rollout.cpus(scored=base.method != "sdft") if on_policy else 0.0  # type: ignore[attr-defined]


def _tried(sweep: Sweep, key: str) -> list[Any]:
    told = sweep.sweep.space.get(key)
    values = told if isinstance(told, list) else next(iter((told or {}).values()), [])
    return [value for value in values if isinstance(value, int)]
