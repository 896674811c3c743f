"""Pools beside a Ray Train worker group: ranks share steps, and a lost group begins again."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from codex_ray.rollout.environment import SingleTurn
from codex_ray.rollout.episode import Rollout
from codex_ray.rollout.pool import RolloutPool, open_pool
from codex_ray.tokenizer import Tokenizer
from tests.integration.rollouts import PROMPTS, SAMPLES, TinyModel, letters, steps, tiny, trained
from tests.unit.rollout.models import mhc, train_small_tokenizer

pytestmark = [pytest.mark.integration, pytest.mark.verify, pytest.mark.usefixtures("ray_session")]

SEED, STEPS = 5, 3


def rank(job: dict[str, Any]) -> list[list[Rollout]]:
    """A rank that learns nothing; rank 0 publishes and submits, and is killed once in mid-step."""
    import torch.distributed as dist
    from ray.train import get_context

    place, world = get_context().get_world_rank(), get_context().get_world_size()
    pool: RolloutPool = job["pool"]
    taken: list[Any] = []
    if place == 0:
        pool.begin()
    dist.barrier()
    for step in range(STEPS):
        if place == 0:
            pool.publish(step, trained(mhc(job["vocabulary"]).eval(), step))
            pool.submit(step, step, PROMPTS, SAMPLES)
            mark = Path(job["mark"])
            if step == 1 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        mine = pool.collect(step, place, world)
        assert 0 <= mine.figures["trainer/idle_ratio"] <= 1
        parts: list[Any] = [None] * world
        dist.all_gather_object(parts, mine.rollouts)
        assert abs(len(parts[0]) - len(parts[-1])) <= 1
        taken.append([one for part in parts for one in part])
    return taken


def test_ranks_of_a_group_that_was_lost_once_get_what_a_script_gets(tmp_path: Path) -> None:
    train_small_tokenizer(tmp_path)
    build = TinyModel(str(tmp_path))
    vocabulary = Tokenizer.load(tmp_path).vocabulary_size
    with open_pool(tiny(), build, SingleTurn(letters), seed=SEED) as pool:
        alone = steps(pool, mhc(vocabulary).eval(), STEPS)
        job = {"pool": pool, "vocabulary": vocabulary, "mark": str(tmp_path / "killed")}
        trainer = TorchTrainer(
            rank,
            train_loop_config=job,
            scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(
                name="ranks", storage_path=str(tmp_path), failure_config=FailureConfig(max_failures=2)
            ),
        )
        found = trainer.fit().return_value
        assert (tmp_path / "killed").exists()
        assert found == alone
        counts = pool.counts()
        assert counts["submitted"] == counts["accepted"] + counts["filtered"] and counts["running"] == 0
    assert ray.is_initialized()
