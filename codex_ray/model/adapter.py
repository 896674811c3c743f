"""Adapters in PEFT's layout: the folder of one stands for its base model with the adapter merged in."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from codex_ray.config.train import Lora
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.files import read_json

CONFIG = "adapter_config.json"


def with_adapters(model: PreTrainedModel, settings: Lora, seed: int) -> Any:
    """Freeze a model and put trainable adapters into it (PEFT), the same ones for the same seed.

    Raises:
        ConfigError: PEFT is not installed, or the settings fit no module of this model.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ConfigError(
            f"lora.rank={settings.rank} needs PEFT, which cannot be imported ({error}); pip install peft"
        ) from error
    targets: Any = "all-linear" if settings.targets == ["all-linear"] else settings.targets
    torch.manual_seed(seed)
    try:
        config = LoraConfig(
            task_type="CAUSAL_LM" if model.can_generate() else "SEQ_CLS",
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=targets,
            modules_to_save=list(settings.modules_to_save) or None,
            use_dora=settings.dora,
            base_model_name_or_path=_absolute(model.name_or_path),
        )
        return get_peft_model(model, config)
    except ValueError as error:
        why = str(error).strip().splitlines()[0].rstrip(".")
        names = sorted({name.rpartition(".")[2] for name, part in model.named_modules() if _is_linear(part)})
        raise ConfigError(
            f"lora.targets={settings.targets} fits no module of this model ({why}); name some of "
            f"{', '.join(names)}, or all-linear"
        ) from error


def with_config(model: PreTrainedModel, config: Any) -> Any:
    """Put adapters of a PEFT configuration into a model; their weights are to come from elsewhere."""
    from peft import get_peft_model

    return get_peft_model(model, copy.deepcopy(config))


def bare(model: Any) -> Any:
    """Return the model that adapters are in, or the model itself."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def _absolute(name: str) -> str:
    """Name a base so that its adapter finds it from anywhere; a Hub name stays."""
    folder = Path(name).expanduser()
    return str(folder.absolute()) if folder.is_dir() else name


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


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
