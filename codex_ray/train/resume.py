"""Refusing to resume under settings that would make the run another run."""

from __future__ import annotations

from typing import Any

import yaml

from codex_ray.config.fields import to_dict
from codex_ray.config.train import Pretrain
from codex_ray.errors import ConfigError
from codex_ray.track.run_folder import RunFolder

# What may differ: where, how long and by which route it runs, what is recorded. The rest shapes the weights.
FREE = ("cluster.", "track.", "checkpoints.", "validation.", "resume", "runs", "name", "corpus", "stream")
FREE_TRAINING = (
    *("train.steps", "train.epochs", "train.seconds", "train.stop_after", "train.on_nonfinite"),
    "train.spike_factor",
    *("train.micro_batch_rows", "train.recompute", "train.compile"),
)


def refuse_other_settings(run: RunFolder, settings: Pretrain) -> None:
    """Compare a resumed run's saved settings with the present ones.

    Raises:
        ConfigError: naming the keys that differ.
    """
    if not run.resumed or not run.config.exists():
        return
    saved = _flat(yaml.safe_load(run.config.read_text(encoding="utf-8")))
    present = _flat(to_dict(settings))
    differing = [
        f"{key} ({saved.get(key)} then, {present.get(key)} now)"
        for key in sorted(saved.keys() | present.keys())
        if saved.get(key) != present.get(key) and not key.startswith(FREE + FREE_TRAINING)
    ]
    if differing:
        raise ConfigError(
            f"run {run.name} was begun with other settings: {', '.join(differing)}; resume it with "
            f"--config {run.config}, or give another name=NAME"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
