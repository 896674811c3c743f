"""The campaign: runs stopped after every step end as the undisturbed run does."""

from __future__ import annotations

from pathlib import Path

import pytest

from codex_ray.config.common import Device
from codex_ray.config.train import DeepSpeed, Pretrain, Training
from codex_ray.train.driver import pretrain
from tests.integration.training import (
    GLOBAL_ROWS,
    LENGTH,
    STEPS,
    assert_same_end,
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
