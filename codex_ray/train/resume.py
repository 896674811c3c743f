"""Refusing to resume under settings that would make the run another run."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from typing import Any

import yaml

from codex_ray.config.fields import to_dict
from codex_ray.config.train import TrainingRun
from codex_ray.config.tree import dotted
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.files import read_json
from codex_ray.track.run_folder import RunFolder
from codex_ray.train.checkpoint import Found
from codex_ray.train.store import Store

# What may differ: where, how long and by which route it runs, what is recorded. The rest shapes the weights.
FREE = (
    "cluster.",
    "track.",
    "checkpoints.",
    "validation.",
    "evaluation.",
    "resume",
    "runs",
    "name",
    "corpus",
    "stream",
)
FREE_TRAINING = (
    *("train.steps", "train.epochs", "train.seconds", "train.stop_after", "train.on_nonfinite"),
    "train.spike_factor",
    *("train.micro_batch_rows", "train.recompute", "train.compile"),
)

VERSIONS = ("torch", "deepspeed", "transformers", "ray", "numpy")


def refuse_other_settings(run: RunFolder, settings: TrainingRun) -> None:
    """Compare a resumed run's saved settings with the present ones.

    Raises:
        ConfigError: naming the keys that differ.
    """
    if not run.resumed or not run.config.exists():
        return
    saved = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    if differing := _differing(_shaping(saved), settings):
        raise ConfigError(
            f"run {run.name} was begun with other settings: {', '.join(differing)}; resume it with "
            f"--config {run.config}, or give another name=NAME"
        )


def refuse_used_storage(run: RunFolder, settings: TrainingRun) -> None:
    """See that the second place of checkpoints answers, and has none of another run of this name.

    Raises:
        CodexRayError: it cannot be reached, or has some while the run is new and must be.
    """
    store = Store.of(settings.checkpoints, run.name)
    if store is not None and (entries := store.entries()) and settings.resume == "never":
        raise CodexRayError(
            f"{store.name} holds checkpoints up to step {entries[-1].step} of a run of this name; continue "
            "it with resume=auto or give another name=NAME"
        )


def facts(run: RunFolder, settings: TrainingRun, decided: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint's manifest says about the run that wrote it.

    That is the settings that shape the weights and their SHA-256, the git commit, the versions of what
    computes and the SHA-256 of all packages, and the run's own decisions, by which a run whose folder is lost
    can go on.
    """
    environment = read_json(run.environment, "environment") if run.environment.exists() else {}
    return {
        **shaping_facts(settings),
        "commit": environment.get("commit"),
        "environment": {"sha256": _digest(environment.get("packages")), **_versions()},
        "decided": dict(decided),
    }


def shaping_facts(settings: TrainingRun) -> dict[str, Any]:
    """Return the settings that shape the weights, and their SHA-256, as a checkpoint's manifest has them."""
    config = _shaping(to_dict(settings))
    return {"config": config, "config_sha256": _digest(config)}


def refuse_other_checkpoint(found: Found, run: RunFolder, settings: TrainingRun) -> list[str]:
    """Compare the settings that a checkpoint was written under with the present ones.

    Returns:
        In words, which versions are other ones now: that is no reason to refuse it.

    Raises:
        ConfigError: naming the keys that differ.
    """
    manifest = found.manifest
    config: dict[str, Any] = manifest.get("config", {})  # format 1 did not say
    if config and manifest["config_sha256"] != _digest(_shaping(to_dict(settings))):
        differing = _differing(config, settings)
        if differing:
            raise ConfigError(
                f"checkpoint {found.folder.name} of run {run.name} was written under other settings: "
                f"{', '.join(differing)}; give those, or another name=NAME"
            )
    then = manifest.get("environment", {})
    return [
        f"{name} {then[name]} then, {version} now"
        for name, version in _versions().items()
        if name in then and then[name] != version
    ]


def _versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in VERSIONS}
    return {"python": platform.python_version(), **found}


def _differing(saved: Mapping[str, Any], settings: TrainingRun) -> list[str]:
    """Say which settings are others now; one that is newer than what was saved had its default then."""
    before = _shaping(to_dict(type(settings)())) | dict(saved)
    present = _shaping(to_dict(settings))
    return [
        f"{key} ({before.get(key)} then, {present.get(key)} now)"
        for key in sorted(before.keys() | present.keys())
        if before.get(key) != present.get(key)
    ]


def _shaping(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that shape the weights, by dotted key."""
    return {key: value for key, value in dotted(settings).items() if not key.startswith(FREE + FREE_TRAINING)}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
