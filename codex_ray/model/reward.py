"""Reward models: Transformers sequence classifiers with one label, of any family that has one."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from codex_ray.errors import ConfigError
from codex_ray.model.load import load_as, load_model


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
    """Load a trained reward model; arguments and errors as of ``load_model``.

    Raises:
        ConfigError: it has other labels than one.
    """
    model = load_as(AutoModelForSequenceClassification, path, device, dtype, revision)
    if model.config.num_labels != 1:
        raise ConfigError(
            f"{path} is a classifier with {model.config.num_labels} labels and a reward model has one; give "
            "one that method=reward has trained"
        )
    return model
