"""Adapters in PEFT's layout: the folder of one stands for its base model with the adapter merged in."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from codex_ray.errors import CodexRayError
from codex_ray.files import read_json

CONFIG = "adapter_config.json"


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> tuple[str, str | None]:
    """Return the base model of an adapter, a folder or a Hub name, and its revision.

    Raises:
        CodexRayError: the adapter does not name it.
    """
    config = read_json(folder / CONFIG, "adapter configuration")
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CodexRayError(
            f"adapter {folder} does not name its base model; write it into {CONFIG} "
            "as base_model_name_or_path"
        )
    return base, config.get("revision")


def merged(base: PreTrainedModel, folder: Path, *, allow_pickle: bool) -> PreTrainedModel:
    """Return the base with an adapter's changes in its weights, as an ordinary model again.

    Raises:
        CodexRayError: the adapter is damaged, is one of another base, or cannot be merged.
    """
    from peft import PeftConfig, get_peft_model
    from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    if not allow_pickle and not (folder / "adapter_model.safetensors").is_file():
        raise CodexRayError(f"adapter {folder} has no adapter_model.safetensors; save it again with PEFT")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of it is raised below
            config = PeftConfig.from_pretrained(str(folder))
            config.inference_mode = True
            model: Any = get_peft_model(base, config, autocast_adapter_dtype=False)
            if not hasattr(model.base_model, "merge_and_unload"):
                raise CodexRayError(
                    f"adapter {folder} is of the kind {config.peft_type.value}, which changes no weights; "
                    "give one that does, such as LORA"
                )
            weights = load_peft_weights(str(folder), device="cpu")
            found = set_peft_model_state_dict(model, weights)
            expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    except CodexRayError:
        raise
    except KeyError as error:
        raise CodexRayError(_misfit(folder, f"{error.args[0]} is in only one of them")) from error
    except Exception as error:  # PEFT and safetensors have no common class
        why = (str(error).strip() or type(error).__name__).splitlines()
        raise CodexRayError(_misfit(folder, why[-1].strip().rstrip("."))) from error
    strange = sorted({*found.unexpected_keys, *(expected.keys() - weights.keys())})
    if strange:
        raise CodexRayError(_misfit(folder, f"{strange[0]} is in only one of them"))
    whole: PreTrainedModel = model.merge_and_unload()
    return whole


def _misfit(folder: Path, why: str) -> str:
    base, _ = base_of(folder)
    return (
        f"adapter {folder} does not fit its base model {base} ({why}); name the model that it was trained on "
        f"as base_model_name_or_path in its {CONFIG}"
    )
