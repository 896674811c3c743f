"""What a checkpoint's manifest says about the run that wrote it, and what resuming makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codex_ray.config.fields import to_dict
from codex_ray.config.saved import save
from codex_ray.config.train import Checkpoints, DeepSpeed, Pretrain, Training
from codex_ray.errors import ConfigError
from codex_ray.track.run_folder import RunFolder
from codex_ray.train.checkpoint import Found
from codex_ray.train.resume import facts, refuse_other_checkpoint, refuse_other_settings

SETTINGS = Pretrain(train=Training(steps=10))


def written(folder: Path, **changes: Any) -> tuple[RunFolder, Found]:
    (folder / "run").mkdir()
    run = RunFolder(folder / "run", 2, resumed=True)
    packages = {"torch": "2.0", "numpy": "2"}
    run.environment.write_text(
        json.dumps({"commit": {"commit": "c0ffee", "dirty": False}, "packages": packages})
    )
    said = json.loads(json.dumps(facts(run, SETTINGS, {"dtype": "float32", "skips": [(3, 1)]})))
    return run, Found(folder / "run/checkpoints/step_00000005", {"step": 5, **said, **changes})


def test_a_manifest_names_commit_versions_and_decisions(tmp_path: Path) -> None:
    manifest = written(tmp_path)[1].manifest
    assert manifest["commit"] == {"commit": "c0ffee", "dirty": False}
    assert manifest["decided"]["skips"] == [[3, 1]]
    assert {"sha256", "python", "torch", "deepspeed", "ray"} <= manifest["environment"].keys()
    assert len(manifest["config_sha256"]) == 64 and manifest["config"]["train.batch_tokens"] == 4096
    assert not any(key.startswith(("cluster.", "checkpoints.")) for key in manifest["config"])


def test_other_settings_are_named(tmp_path: Path) -> None:
    run, found = written(tmp_path)
    elsewhere = replace(SETTINGS, checkpoints=Checkpoints(every=7), train=Training(epochs=2))
    assert refuse_other_checkpoint(found, run, elsewhere) == []
    other = replace(SETTINGS, seed=7, deepspeed=DeepSpeed(config={"a": 1}))
    with pytest.raises(
        ConfigError,
        match=r"step_00000005 of run run was .* deepspeed.config.a \(None then, 1 now\), seed \(1234",
    ):
        refuse_other_checkpoint(found, run, other)


def test_other_versions_are_told_and_are_no_reason_to_refuse(tmp_path: Path) -> None:
    run, found = written(tmp_path)
    found.manifest["environment"]["torch"] = "1.0"
    (told,) = refuse_other_checkpoint(found, run, SETTINGS)
    assert told.startswith("torch 1.0 then, 2.")


def test_settings_that_came_later_had_their_default(tmp_path: Path) -> None:
    run, found = written(tmp_path)
    for name in ("optimizer.eps", "train.documents"):
        del found.manifest["config"][name]
    found.manifest["config_sha256"] = "of fewer keys"
    assert refuse_other_checkpoint(found, run, SETTINGS) == []
    data = to_dict(SETTINGS)
    del data["optimizer"]["eps"]
    save(SETTINGS, run.config)
    run.config.write_text(run.config.read_text().replace("  eps: 1.0e-08\n", ""))
    refuse_other_settings(run, SETTINGS)
    with pytest.raises(ConfigError, match=r"train.documents \(joined then, separate now\)"):
        refuse_other_settings(run, replace(SETTINGS, train=Training(steps=10, documents="separate")))


def test_checkpoints_of_the_first_format_have_nothing_to_compare(tmp_path: Path) -> None:
    run, _ = written(tmp_path)
    assert refuse_other_checkpoint(Found(tmp_path, {"step": 5, "world_size": 2}), run, SETTINGS) == []
