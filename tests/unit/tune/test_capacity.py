"""How many trials a cluster is given at a time, so that none waits for what another holds."""

from __future__ import annotations

import pytest

from codex_ray.cluster.preflight import NodeOffer, runs_at_a_time
from codex_ray.config.common import Cluster
from codex_ray.config.discover import Discover
from codex_ray.config.finetune import Finetune
from codex_ray.config.rollout import Rollouts
from codex_ray.config.train import Pretrain, TrainingRun
from codex_ray.errors import CodexRayError
from codex_ray.tune.capacity import capacity_of
from tests.unit.tune.sweeps import a_sweep

FOUR = NodeOffer({"CPU": 4.0}, {})


@pytest.mark.parametrize(
    ("workers", "cpus", "placement", "nodes", "runs"),
    [
        (1, 3.0, "pack", 3, 3),  # of twelve CPUs four times three are there, but not whole
        (2, 2.0, "pack", 3, 3),
        (2, 2.0, "strict_pack", 3, 3),
        (3, 2.0, "strict_pack", 3, 0),
        (2, 2.0, "strict_spread", 3, 3),
        (2, 1.0, "strict_spread", 2, 4),
        (3, 1.0, "strict_spread", 2, 0),
    ],
)
def test_runs_fit_whole(workers: int, cpus: float, placement: str, nodes: int, runs: int) -> None:
    cluster = Cluster(workers=workers, cpus_per_worker=cpus, placement=placement)
    assert runs_at_a_time(cluster, [FOUR] * nodes) == runs


def test_a_cluster_holds_as_many_as_fit_whole_and_fewer_than_were_asked_for_are_refused() -> None:
    base = Pretrain(cluster=Cluster(workers=1, cpus_per_worker=3.0))
    sweep = a_sweep({"seed": [1, 2]})
    capacity = capacity_of(sweep, base)
    assert capacity.on({"CPU": 20.0}, 3, embedded=False).concurrent == 3
    assert capacity.on({"CPU": 20.0}, 3, embedded=True) is capacity
    asked = capacity_of(a_sweep({"seed": [1, 2]}, concurrent=4), base)
    with pytest.raises(CodexRayError, match=r"4 trials at a time need .* for 3; lower cluster\.workers"):
        asked.on({"CPU": 20.0}, 3, embedded=False)


@pytest.mark.parametrize(
    ("base", "more"),
    [
        (Pretrain(), 0.0),
        (Finetune(), 0.0),
        (Finetune(method="grpo", rollout=Rollouts(actors=2, cpus_per_actor=1.5)), 3.0),
        (Discover(rollout=Rollouts(actors=3)), 3.0),
    ],
)
def test_what_samples_beside_the_workers_is_counted(base: TrainingRun, more: float) -> None:
    cluster = base.cluster
    found = capacity_of(a_sweep({"seed": [1, 2]}), base).cpus
    assert found == cluster.workers * (cluster.cpus_per_worker + 0.25) + more
