"""Runs whose batches and sequences grow, with an average of the weights: stopped, cut anew, continued."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from codex_ray.config.common import Device
from codex_ray.config.corpora import CorpusRows
from codex_ray.config.train import DeepSpeed, Training
from codex_ray.corpus.direct import OrderedReader, StepRows, digest
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.verbs.rows import rows_verb
from codex_ray.track.metrics import read_metrics
from codex_ray.train.driver import TrainingResult, pretrain
from tests.integration.training import (
    GLOBAL_ROWS,
    LENGTH,
    STEPS,
    TWO_WORKERS,
    assert_same_end,
    batches,
    losses,
    run_settings,
    weights,
)

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_session")]
ROWS = [2] * 3 + [6] * 4 + [GLOBAL_ROWS] * 5
GROWING = Training(
    steps=STEPS,
    batch_tokens=GLOBAL_ROWS * LENGTH,
    batch_ramp=[[2 * LENGTH, 3], [6 * LENGTH, 4]],
    sequence_ramp=[[LENGTH // 4, 2], [LENGTH // 2, 3]],
    ema_decay=0.8,
)


@pytest.fixture(scope="module")
def whole(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """A growing run that nothing disturbs."""
    return pretrain(run_settings(tiny_corpus, tmp_path_factory.mktemp("runs"), "whole", train=GROWING))


@pytest.mark.verify
def test_a_growing_run_takes_every_row_once(whole: TrainingResult, tiny_corpus: Path, tmp_path: Path) -> None:
    settings = run_settings(tiny_corpus, tmp_path, "whole", train=GROWING)
    manifest = Manifest.load(tiny_corpus)
    reader = OrderedReader(manifest, "train", settings.seed)
    first = 0
    for (_, batch), rows in zip(batches(whole.run), ROWS, strict=True):
        positions = np.arange(first, first + rows)
        assert batch == digest(StepRows(0, positions, reader.take(positions)))
        first += rows
    for step in (1, 4, STEPS):
        assert rows_verb(CorpusRows(run=str(whole.run), step=step, output=str(tmp_path / "rows"))).matches
    last = read_metrics(whole.run / "metrics.jsonl")[-1]
    assert last["tokens"] == sum(ROWS) * LENGTH
    assert last["epoch"] == pytest.approx(sum(ROWS) / manifest.splits["train"].rows)


@pytest.mark.verify
def test_a_growing_run_goes_on_with_other_workers(
    whole: TrainingResult, tiny_corpus: Path, tmp_path: Path
) -> None:
    settings = run_settings(tiny_corpus, tmp_path, "resized", train=GROWING)
    stopped = replace(settings, train=replace(GROWING, stop_after=5))
    pretrain(stopped)
    one = replace(TWO_WORKERS, workers=1)
    resized = pretrain(replace(stopped, train=GROWING, cluster=one, resume="must"))
    assert batches(resized.run) == batches(whole.run)
    assert losses(resized.run) == pytest.approx(losses(whole.run), rel=1e-4)
    for name, value in weights(whole.run).items():
        assert (weights(resized.run)[name] - value).norm() <= 1e-3 * value.norm() + 1e-6, name


@pytest.mark.verify
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_growing_run_continues_bit_for_bit(stage: int, tiny_corpus: Path, tmp_path: Path) -> None:
    settings = run_settings(
        tiny_corpus,
        tmp_path,
        "whole",
        train=GROWING,
        stream="ray",
        compute=Device(device="cpu", dtype="bfloat16"),
        deepspeed=DeepSpeed(stage=stage, autocast=True),
    )
    whole = pretrain(settings)
    for stop in (2, 7):
        part = replace(settings, name=f"part{stop}")
        pretrain(replace(part, train=replace(GROWING, stop_after=stop)))
        assert_same_end(pretrain(replace(part, resume="must")).run, whole.run)


@pytest.mark.verify
def test_the_average_is_validated_and_exported_as_asked(tiny_corpus: Path, tmp_path: Path) -> None:
    def run(*uses: str) -> tuple[list[float], float, dict[str, torch.Tensor]]:
        training = replace(GROWING, ema_for=list(uses))
        result = pretrain(run_settings(tiny_corpus, tmp_path, f"for{len(uses)}{uses[:1]}", train=training))
        return losses(result.run), result.figures["validation_loss"], weights(result.run)

    none, both = run(), run("export", "validation")
    exported, validated = run("export"), run("validation")
    assert none[0] == both[0] == exported[0] == validated[0]
    assert none[1] == exported[1] != both[1] == validated[1]
    for name, value in none[2].items():
        assert torch.equal(value, validated[2][name])
        assert torch.equal(both[2][name], exported[2][name])
    assert any(not torch.equal(value, both[2][name]) for name, value in none[2].items())
