"""Loading any causal language model from a folder or the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.files import read_json
from codex_ray.model.adapter import base_of, is_adapter, merged
from codex_ray.model.hub import offline
from codex_ray.model.modeling import CodexRayForCausalLM
from codex_ray.track.hardware import choose_dtype

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
UNLOADABLE = (
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    UnpicklingError,
)
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def resolve_model_folder(path: str | Path) -> Path:
    """Return the model folder of a run folder, or the model folder itself, which may be an adapter's.

    Raises:
        CodexRayError: there is no such folder, or no model in it.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise CodexRayError(f"model folder {folder} does not exist; check the path")
    for candidate in (folder, folder / "model"):
        if (candidate / "config.json").is_file() or is_adapter(candidate):
            return candidate
    if (folder / "checkpoints").is_dir():
        raise CodexRayError(
            f"run {folder} has checkpoints but no model yet; let it finish with resume=must, then try again"
        )
    raise CodexRayError(
        f"{folder} holds no model (no config.json in it or in its model/); give a model folder"
    )


def load_model(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    revision: str | None = None,
    allow_pickle: bool = False,
) -> PreTrainedModel:
    """Load a causal language model for inference (evaluation mode, no gradients needed).

    Args:
        path: run folder, model folder in the Hugging Face layout, or a Hub name. A local folder is loaded
            without the network. The folder of an adapter means its base with the adapter merged in.
        device: torch device or ``auto``.
        dtype: torch dtype, its name, or ``auto`` for what the device multiplies fastest.
        revision: Hub revision; a local folder has none.
        allow_pickle: also take weights stored as pickles (never more of them than tensors).

    Raises:
        CodexRayError: the model is missing, incomplete or damaged, or its weights are pickles.
        ConfigError: the device or precision cannot be had here.
    """
    return load_as(AutoModelForCausalLM, path, device, dtype, revision, allow_pickle=allow_pickle)


def load_as(
    auto_class: Any,
    path: str | Path,
    device: str | torch.device,
    dtype: str | torch.dtype,
    revision: str | None,
    *,
    allow_pickle: bool = False,
) -> PreTrainedModel:
    """Load a model as one of Transformers' auto classes; see :func:`load_model`."""
    chosen_device = resolve_device(device)
    chosen_dtype = resolve_dtype(dtype, chosen_device)
    source, local = _source(path, revision)
    if local and is_adapter(Path(source)):
        base, base_revision = _base(Path(source))
        model = load_as(auto_class, base, device, dtype, base_revision, allow_pickle=allow_pickle)
        return merged(model, Path(source), allow_pickle=allow_pickle)
    if local:
        _check_files(Path(source), allow_pickle)
    try:
        with quiet_transformers():  # what it would log is raised below, as one sentence
            model, info = auto_class.from_pretrained(
                source,
                dtype=chosen_dtype,
                revision=revision or "main",
                local_files_only=local,
                use_safetensors=None if allow_pickle else True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except UNLOADABLE as error:
        raise _unloadable(source, local, error) from error
    _check_complete(source, model, info)
    loaded: PreTrainedModel = model.to(chosen_device).eval()
    return loaded


def _check_files(folder: Path, allow_pickle: bool) -> None:
    """Name a missing shard, and weights that are pickles, before anything is read."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = set(read_json(index, "list of weight files").get("weight_map", {}).values())
        missing = sorted(name for name in names if not (folder / name).is_file())
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise CodexRayError(
                f"model folder {folder} lacks {missing[0]}{more}; fetch it whole again "
                f"(hf download NAME --local-dir {folder}), or export the model again"
            )
    elif (
        not allow_pickle and not any(folder.glob("*.safetensors")) and any(folder.glob("pytorch_model*.bin"))
    ):
        raise CodexRayError(
            f"the weights in {folder} are pickles; codex-ray export {folder} output=FOLDER allow_pickle=true "
            "writes them as safetensors, reading nothing but tensors"
        )


def positions_of(config: PreTrainedConfig) -> int | None:
    """Return the longest sequence a model was made for, in tokens; None where it names none."""
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit


def load_config(path: str | Path, revision: str | None = None) -> PreTrainedConfig:
    """Load a model's configuration alone, from a folder (never the network then) or the Hub.

    Raises:
        CodexRayError: there is none, or it is damaged.
        ConfigError: a revision of a local folder.
    """
    source, local = _source(path, revision)
    if local and is_adapter(Path(source)):
        return load_config(*_base(Path(source)))
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            source, revision=revision or "main", local_files_only=local
        )
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise _unloadable(source, local, error) from error
    return config


def empty_model(configuration: dict[str, Any] | PreTrainedConfig) -> PreTrainedModel:
    """Return the model of a configuration in fp32, whose weights are to come from elsewhere."""
    if isinstance(configuration, dict):
        _know_architecture(configuration.get("model_type"))
        configuration = AutoConfig.for_model(**configuration)
    with quiet_transformers():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(configuration, dtype=torch.float32)
    return model


def _know_architecture(name: str | None) -> None:
    """Let Transformers know an architecture that a package brings (kind ``models``), by ``model_type``."""
    from codex_ray.plugins import brought, find

    if name in brought("models"):  # never a dotted path that a folder names
        model = find("models", str(name), "model_type")
        AutoConfig.register(name, model.config_class, exist_ok=True)
        AutoModelForCausalLM.register(model.config_class, model, exist_ok=True)


def _base(adapter: Path) -> tuple[str, str | None]:
    base, revision = base_of(adapter)
    there = Path(base).expanduser().is_dir()
    if not there and not _HUB_NAME.fullmatch(base):
        raise CodexRayError(
            f"adapter {adapter} was trained on {base}, which is not here; bring that folder, or name where "
            "it is as base_model_name_or_path in adapter_config.json"
        )
    return base, None if there else revision


def _source(path: str | Path, revision: str | None) -> tuple[str, bool]:
    """Return what Transformers is to load, and whether it is a local folder."""
    local = Path(path).expanduser().exists() or not _HUB_NAME.fullmatch(str(path))
    if local and revision is not None:
        raise ConfigError(f"revision={revision} is for Hub models and {path} is a local folder; leave it out")
    if not local and offline():  # what was fetched before; the libraries would ask again and again
        try:
            return snapshot_download(str(path), revision=revision, local_files_only=True), True
        except OSError as error:
            raise _unloadable(str(path), False, error) from error
    if local:
        path = resolve_model_folder(path)
        file = path / "config.json"
        _know_architecture(read_json(file, "configuration").get("model_type") if file.is_file() else None)
    return str(path), local


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep Transformers' progress bars and reports, and DeepSpeed's greeting, off the terminal.

    Saving a model imports DeepSpeed where it is installed, to recognise its engines.
    """
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def resolve_device(device: str | torch.device) -> torch.device:
    """Turn a setting into a torch device.

    Raises:
        ConfigError: CUDA is asked for and there is none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda needs an NVIDIA GPU and this machine has none; use device=cpu")
    return chosen


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Turn a setting into a torch dtype; ``auto`` measures.

    Raises:
        ConfigError: there is no such precision.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        dtype = choose_dtype(device.type, torch.get_num_threads())[0]
    if dtype not in DTYPES:
        raise ConfigError(f"dtype must be auto, {', '.join(DTYPES)}, not {dtype!r}")
    return DTYPES[dtype]


def _check_complete(source: str, model: PreTrainedModel, info: dict[str, Any]) -> None:
    # Folders of other families may well hold more than the language model.
    kinds = ["missing", "mismatched"] + (["unexpected"] if isinstance(model, CodexRayForCausalLM) else [])
    for kind in kinds:
        keys = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info[f"{kind}_keys"])
        keys = [key for key in keys if not key.startswith("pooler.")]  # of encoders; nothing here uses it
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise CodexRayError(
                f"the weights in {source} do not fit its config.json ({kind}: {keys[0]}{more}); "
                "the folder is damaged or mixed, export the model again"
            )


def _unloadable(source: str, local: bool, error: Exception) -> CodexRayError:
    why = reason(error)
    if local:
        return CodexRayError(
            f"the model in {source} cannot be loaded ({why}); it is damaged, export it again"
        )
    why = "it cannot be reached" if offline() else why
    return CodexRayError(
        f"{source} is neither a folder here nor a model that the Hub gives ({why}); check the name, or "
        f"fetch it where there is a network (hf download {source} --local-dir FOLDER) and give the folder"
    )


def reason(error: BaseException) -> str:
    """The first line of an error's message that says something."""
    root = error.__cause__ or error
    text = root.args[0] if isinstance(root, KeyError) and root.args else root  # str() would quote it
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(root).__name__
