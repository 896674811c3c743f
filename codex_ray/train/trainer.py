"""Ray Train's trainer as a run uses it: its settings, and none of the processes that a run has no use for.

Every Python process of Ray's wakes a hundred times a second, also when it does nothing. Where training has
the same two cores, eight of them cost a tenth of each step, and each takes over a second of a core to start.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from codex_ray.cluster.network import ProcessGroup
from codex_ray.cluster.session import is_embedded
from codex_ray.config.train import TrainingRun
from codex_ray.imports import no_collection
from codex_ray.train.callback import FailureReport
from codex_ray.train.environment import worker_environment


def train_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Run one worker; the driver names this function only, and imports nothing of what it needs."""
    with no_collection():
        from codex_ray.train import worker

    return worker.train_worker(job)


class Trainer(TorchTrainer):
    """Starts no manager of data sets, since workers open their own streams.

    In embedded Ray, which ends with the driver and takes everything along, nothing is to be cleaned up
    after a lost controller either.
    """

    def __init__(self, *arguments: Any, embedded: bool, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        unused = [DatasetsCallback, PlacementGroupCleanerCallback] if embedded else [DatasetsCallback]
        self._unused = tuple(unused)

    def _create_default_callbacks(self) -> list[Any]:
        every = super()._create_default_callbacks()
        return [callback for callback in every if not isinstance(callback, self._unused)]


def make_trainer(
    job: dict[str, Any],
    settings: TrainingRun,
    function: Callable[[dict[str, Any]], Any],
    config: dict[str, Any],
    messages: Callable[[], Path],
) -> Trainer:
    """Return a trainer.

    Args:
        job: what it begins with; ``settings``: of its run.
        function: what every worker runs; ``config``: what that is given.
        messages: returns the attempt's folder that failures are told in.
    """
    cluster, run = settings.cluster, job["run"]
    resources = {"CPU": cluster.cpus_per_worker}
    if cluster.gpus_per_worker:
        resources["GPU"] = cluster.gpus_per_worker
    return Trainer(
        function,
        embedded=is_embedded(),
        train_loop_config=config,
        torch_config=ProcessGroup(timeout_s=int(cluster.collective_timeout_seconds)),
        scaling_config=ScalingConfig(
            accelerator_type=cluster.gpu_kind,
            label_selector=dict(cluster.labels) or None,
            placement_strategy=cluster.placement.upper(),
            num_workers=(cluster.fewest_workers, cluster.workers) if cluster.elastic else cluster.workers,
            elastic_resize_monitor_interval_s=cluster.grow_every_seconds,
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        # Ray's own record of checkpoints is not used, so each start gets a fresh folder: a torn
        # one, or one that names a pruned checkpoint, makes fit() fail for ever.
        run_config=RunConfig(
            name=run.name,
            storage_path=str(run.attempt_folder),
            failure_config=FailureConfig(
                max_failures=-1,  # the driver counts them, from the newest checkpoint on
                controller_failure_limit=-1,  # waits for room; the driver has a deadline for them
            ),
            callbacks=[FailureReport(messages)],
            worker_runtime_env={"env_vars": worker_environment(settings, job["threads"])},
        ),
    )
