"""A checkpoint goes from one run to another, under settings of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from codex_ray.config.compose import compose
from codex_ray.config.train import Optimizer, Pretrain, Training
from codex_ray.errors import CodexRayError
from codex_ray.files import sha256_of
from codex_ray.train.checkpoint import CheckpointFolder, Found, damage
from codex_ray.train.handover import hand_over
from codex_ray.train.resume import shaping_facts

SETTINGS = Pretrain(train=Training(steps=10))


def a_checkpoint(run: Path, step: int, text: str, settings: Pretrain = SETTINGS) -> CheckpointFolder:
    folder = CheckpointFolder(run / "checkpoints")
    files = folder.staging(step, "test")
    (files / "engine").mkdir(parents=True)
    (files / "engine" / "weights.pt").write_text(text)
    hashes = {"engine/weights.pt": sha256_of(files / "engine" / "weights.pt")}
    decided = {"total_steps": 10, "of": run.name}
    folder.commit(files, {"step": step, "files": hashes, "decided": decided, **shaping_facts(settings)})
    return folder


def test_state_is_taken_and_settings_are_the_taker_s_also_when_done_twice(tmp_path: Path) -> None:
    giver, taker = tmp_path / "giver", tmp_path / "taker"
    theirs = a_checkpoint(giver, 4, "theirs")
    ours = a_checkpoint(taker, 2, "ours")
    a_checkpoint(taker, 4, "ours")
    settings = replace(SETTINGS, name="taker", optimizer=Optimizer(learning_rate=0.5))
    for _ in range(2):
        hand_over(giver, taker, 4, settings)
        assert ours.steps() == [4] and damage(ours.path(4)) is None and damage(theirs.path(4)) is None
        found = Found.read(ours.path(4)).manifest
        assert found["config"]["optimizer.learning_rate"] == 0.5
        assert found["taken_from"]["run"] == "giver"
        assert json.loads((taker / "decided.json").read_text())["of"] == "giver"
        weights = [folder.path(4) / "engine" / "weights.pt" for folder in (ours, theirs)]
        assert weights[0].samefile(weights[1])
    assert compose("pretrain", config_file=taker / "config.yaml").optimizer.learning_rate == 0.5
    theirs.remove(4)
    assert damage(ours.path(4)) is None and weights[0].read_text() == "theirs"


def test_a_damaged_or_missing_checkpoint_is_not_taken(tmp_path: Path) -> None:
    ours = a_checkpoint(tmp_path / "taker", 4, "ours")
    with pytest.raises(CodexRayError, match="cannot be handed over to taker: its manifest is missing"):
        hand_over(tmp_path / "giver", tmp_path / "taker", 4, SETTINGS)
    theirs = a_checkpoint(tmp_path / "giver", 4, "theirs")
    (theirs.path(4) / "engine" / "weights.pt").write_text("other")
    with pytest.raises(CodexRayError, match=r"weights\.pt has changed"):
        hand_over(tmp_path / "giver", tmp_path / "taker", 4, SETTINGS)
    assert ours.steps() == [4] and "taken_from" not in Found.read(ours.path(4)).manifest
