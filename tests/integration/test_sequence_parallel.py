"""Workers that share sequences between them train what one worker does on whole ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from codex_ray.train.driver import pretrain
from tests.integration.engine_runs import engine_losses, plain_losses
from tests.integration.training import (
    TWO_WORKERS,
    assert_same_end,
    batches,
    losses,
    run_settings,
    weights,
)

pytestmark = pytest.mark.integration
STAGES = (0, 1, 2, 3)


ALL = [(0, "adamw", 1), (1, "muon", 2), (2, "adamw", 3), (3, "muon", 1)]


@pytest.mark.parametrize(
    ("world", "cases"),
    [
        (2, [(1, "muon", 2)]),
        pytest.param(2, ALL, marks=pytest.mark.verify),
        pytest.param(4, ALL, marks=pytest.mark.verify),
    ],
    ids=["some", "two", "four"],
)
def test_losses_are_those_of_whole_sequences(
    world: int, cases: list[tuple[int, str, int]], tmp_path: Path
) -> None:
    runs = [
        {"stage": stage, "kind": kind, "accumulation": accumulation, "sequence_parallel": 2}
        for stage, kind, accumulation in cases
    ]
    results = engine_losses(world, runs, tmp_path)
    for run, (found, _) in zip(runs, results, strict=True):
        expected = plain_losses(str(run["kind"]))
        assert found == pytest.approx(expected, rel=1e-5 if run["kind"] == "adamw" else 1e-4), run


@pytest.mark.verify
@pytest.mark.parametrize("stage", STAGES)
def test_a_shared_run_continues_exactly_and_without_sharing(stage: int, tmp_path: Path) -> None:
    base = {"stage": stage, "sequence_parallel": 2}
    folder = str(tmp_path / "saved")
    runs = [base, base | {"last": 10, "save": folder}, base | {"first": 10, "load": folder}]
    (whole, ours), (head, _), (tail, resumed) = engine_losses(2, runs, tmp_path)
    assert whole == head + tail
    assert all(torch.equal(ours[name], resumed[name]) for name in ours)
    [(alone, _)] = engine_losses(2, [runs[2] | {"sequence_parallel": 1}], tmp_path)
    assert alone == pytest.approx(tail, rel=1e-5)


@pytest.mark.verify
@pytest.mark.usefixtures("ray_session")
def test_a_run_that_shares_sequences_ends_as_one_that_does_not(tiny_corpus: Path, tmp_path: Path) -> None:
    plain = pretrain(run_settings(tiny_corpus, tmp_path, "plain"))
    settings = run_settings(
        tiny_corpus, tmp_path, "shared", cluster=replace(TWO_WORKERS, sequence_parallel=2)
    )
    settings = replace(settings, track=replace(settings.track, mixing_every=4))
    shared = pretrain(settings)
    assert batches(shared.run) == batches(plain.run)
    assert losses(shared.run) == pytest.approx(losses(plain.run), rel=1e-4)
    assert shared.figures["validation_loss"] == pytest.approx(plain.figures["validation_loss"], rel=1e-3)
    for name, value in weights(plain.run).items():
        assert (weights(shared.run)[name] - value).norm() <= 2e-3 * value.norm() + 1e-6, name
    part = replace(settings, name="part")
    pretrain(replace(part, train=replace(part.train, stop_after=5)))
    assert_same_end(pretrain(replace(part, resume="must")).run, shared.run)
