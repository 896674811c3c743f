"""A model with the tokenizer that belongs to it, for the verbs that use a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from codex_ray.config.common import Device
from codex_ray.errors import CodexRayError
from codex_ray.model import load_model, resolve_model_folder
from codex_ray.model.adapter import base_of, is_adapter

if TYPE_CHECKING:
    from codex_ray.tokenizer import Tokenizer

TOKENIZER_FILES = ("*token*", "*.model", "vocab*", "merges*", "*.jinja", "config.json")
"""What a Hub repository is asked for besides the weights."""


def load_with_tokenizer(model: str, revision: str | None, compute: Device) -> tuple[Any, Tokenizer]:
    """Load a model, ready for inference, and its tokenizer.

    Args:
        model: model folder, run folder or Hub name.
        revision: Hub revision of the model.
        compute: device and precision.

    Raises:
        CodexRayError: either is missing or damaged, or the two do not belong together.
        ConfigError: the device or precision cannot be had here.
    """
    from codex_ray.tokenizer import Tokenizer

    loaded = load_model(model, device=compute.device, dtype=compute.dtype, revision=revision)
    folder = tokenizer_folder(model, revision)
    tokenizer = Tokenizer.load(folder)
    vocabulary = loaded.config.get_text_config().vocab_size
    if tokenizer.vocabulary_size > vocabulary:
        raise CodexRayError(
            f"the tokenizer in {folder} has {tokenizer.vocabulary_size} pieces and the model {vocabulary}; "
            "put the model's own tokenizer there, or export the model again"
        )
    return loaded, tokenizer


def tokenizer_folder(model: str, revision: str | None) -> Path:
    """Return the folder of a model's tokenizer; an adapter may have that of its base.

    Raises:
        CodexRayError: there is no such model.
    """
    if Path(model).expanduser().is_dir():
        folder = resolve_model_folder(model)
        if is_adapter(folder) and not any(folder.glob("*token*")):
            return tokenizer_folder(*base_of(folder))
        return folder
    from huggingface_hub import snapshot_download

    from codex_ray.model.hub import offline

    patterns = list(TOKENIZER_FILES)
    return Path(
        snapshot_download(model, revision=revision, allow_patterns=patterns, local_files_only=offline())
    )
