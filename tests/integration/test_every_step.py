"""The campaign: stops after every step and kills of each rank all end as the undisturbed run does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from codex_ray.config.common import Device
from codex_ray.config.train import DeepSpeed, Pretrain, Training
from codex_ray.train.driver import pretrain
from tests.integration.training import (
    GLOBAL_ROWS,
    LENGTH,
    QUIET,
    STEPS,
    assert_same_end,
    killer,
    run_settings,
)

pytestmark = [pytest.mark.integration, pytest.mark.verify, pytest.mark.usefixtures("ray_session")]


def settings_of(corpus: Path, runs: Path, name: str, stage: int, dtype: str, **changes: object) -> Pretrain:
    return run_settings(
        corpus,
        runs,
        name,
        deepspeed=DeepSpeed(stage=stage),
        compute=Device(device="cpu", dtype=dtype),
        **changes,
    )


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("stage", "dtype"), [(0, "float32"), (1, "float32"), (2, "bfloat16"), (3, "bfloat16")]
)
def test_a_stop_at_every_step(stage: int, dtype: str, tiny_corpus: Path, tmp_path: Path) -> None:
    whole = pretrain(settings_of(tiny_corpus, tmp_path, "whole", stage, dtype)).run
    for stop_after in (*range(1, STEPS), None):
        training = Training(steps=STEPS, batch_tokens=GLOBAL_ROWS * LENGTH, stop_after=stop_after)
        result = pretrain(
            settings_of(tiny_corpus, tmp_path, "stops", stage, dtype, train=training, stream="ray")
        )
    assert result.completed
    assert_same_end(result.run, whole)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("stage", "dtype"), [(1, "float32"), (3, "bfloat16")])
def test_a_kill_of_each_rank_at_many_steps(stage: int, dtype: str, tiny_corpus: Path, tmp_path: Path) -> None:
    whole = pretrain(settings_of(tiny_corpus, tmp_path, "whole", stage, dtype)).run
    for rank in (0, 1):
        for step in (1, 4, 5, 8, 11):
            name = f"killed_{rank}_{step}"
            slow = replace(QUIET, mixing_every=1)  # lengthens the steps, so that the kill falls among them
            with killer(tmp_path / name, rank, step) as killed:
                result = pretrain(settings_of(tiny_corpus, tmp_path, name, stage, dtype, track=slow))
            assert killed, (rank, step)
            assert_same_end(result.run, whole)
