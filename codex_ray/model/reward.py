"""Reward models: Transformers sequence classifiers with one label, of any family that has one."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from codex_ray.errors import ConfigError
from codex_ray.files import read_json
from codex_ray.model.adapter import CONFIG, base_of, is_adapter, merged
from codex_ray.model.load import load_as, load_config, load_model, resolve_model_folder


def start_reward_model(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    revision: str | None = None,
    allow_pickle: bool = False,
) -> PreTrainedModel:
    """Make a reward model of a causal language model: its decoder, and a score that begins at zero.

    Arguments and errors are those of ``load_model``.

    Raises:
        ConfigError: Transformers has no sequence classifier of this family.
    """
    language_model = load_model(
        path, device=device, dtype=dtype, revision=revision, allow_pickle=allow_pickle
    )
    config = language_model.config
    config.num_labels = 1
    config.architectures = None
    try:
        model = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise ConfigError(
            f"Transformers has no sequence classifier of the family {config.model_type}; give another model"
        ) from error
    model.base_model.load_state_dict(language_model.base_model.state_dict())
    nn.init.zeros_(model.score.weight)
    started: PreTrainedModel = model.to(language_model.device, language_model.dtype).eval()
    return started


def load_reward_model(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    revision: str | None = None,
) -> PreTrainedModel:
    """Load a trained reward model, or the base of an adapter of one with it merged in.

    Arguments and errors are those of ``load_model``.

    Raises:
        ConfigError: it is no classifier, or one with other labels than one.
    """
    folder = resolve_model_folder(path) if Path(path).expanduser().is_dir() else None
    if folder is not None and is_adapter(folder):
        base, base_revision = base_of(folder)
        started = start_reward_model(base, device=device, dtype=dtype, revision=base_revision)
        return merged(started, folder, allow_pickle=False).eval()
    if not is_classifier(path, revision):
        raise ConfigError(f"{path} is no reward model; give one that method=reward has trained")
    model = load_as(AutoModelForSequenceClassification, path, device, dtype, revision)
    if model.config.num_labels != 1:
        raise ConfigError(
            f"{path} is a classifier with {model.config.num_labels} labels and a reward model has one; give "
            "one that method=reward has trained"
        )
    return model


def is_classifier(path: str | Path, revision: str | None = None) -> bool:
    """Whether a model, or an adapter, says that it classifies sequences.

    Raises:
        CodexRayError: there is no such model.
    """
    folder = resolve_model_folder(path) if Path(path).expanduser().is_dir() else None
    if folder is not None and is_adapter(folder):
        return bool(read_json(folder / CONFIG, "adapter configuration").get("task_type") == "SEQ_CLS")
    kinds = load_config(path, revision).architectures or []
    return any(kind.endswith("ForSequenceClassification") for kind in kinds)
