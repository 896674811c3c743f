"""The verb ``export``: a model folder that Transformers loads with and without codex_ray."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from codex_ray.config.use import Export
from codex_ray.errors import CodexRayError
from codex_ray.files import unwritable, write_json, write_text
from codex_ray.model.adapter import base_of, is_adapter
from codex_ray.model.card import model_card
from codex_ray.model.lineage import LINEAGE, derived, weights_of
from codex_ray.model.load import load_model, quiet_transformers, resolve_model_folder
from codex_ray.tokenizer.chat import TEMPLATE_FILE, TURNS, template_text
from codex_ray.tokenizer.conversation import refuse_wrong_template

COPIED_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    TEMPLATE_FILE,
)


@dataclass(frozen=True)
class Exported:
    """What ``export`` wrote: the folder, its files, the weights' count and the bytes in all."""

    folder: Path
    files: list[str]
    parameters: int
    bytes: int

    def __str__(self) -> str:
        """One line for the terminal."""
        size = f"{self.bytes / 1e6:,.1f} MB in {len(self.files)} files"
        return f"model {self.folder} is written: {self.parameters:,} parameters, {size}"


def export(settings: Export) -> Exported:
    """Write the model in a chosen precision, complete when the folder has its name; says what was written.

    Raises:
        CodexRayError: the model cannot be loaded, or the folder is in use or cannot be written.
    """
    folder = free_folder(settings.output)
    template = None if settings.chat_template is None else _sound_template(settings.chat_template)
    model = load_model(
        settings.model,
        dtype=settings.dtype,
        revision=settings.revision,
        allow_pickle=settings.allow_pickle,
    )
    exported = write_folder(model, settings.model, folder, settings.max_shard_bytes, template)
    print(exported)
    return exported


def free_folder(output: str) -> Path:
    """Return the folder to write, which is empty or not there yet.

    Raises:
        CodexRayError: it is in use.
    """
    folder = Path(output).expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CodexRayError(f"{folder} is not empty; give another output=FOLDER, or empty it first")
    return folder


def write_folder(
    model: PreTrainedModel,
    source: str,
    folder: Path,
    max_shard_bytes: int,
    chat_template: str | None = None,
    verb: str = "export",
) -> Exported:
    """Write weights, code, tokenizer and card into ``folder``, complete when the folder has its name.

    Args:
        model: what to write.
        source: the path or Hub name the model came from; a local one's tokenizer is copied.
        folder: an empty folder, or one that is not there yet.
        max_shard_bytes: largest safetensors file.
        chat_template: a template; unset keeps what the source has, else takes that of fine-tuning.
        verb: what makes it, for its lineage.

    Raises:
        CodexRayError: the folder cannot be written.
    """
    staging = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        with quiet_transformers():
            model.save_pretrained(staging, max_shard_size=max_shard_bytes)
        run = None
        if Path(source).expanduser().exists():
            found = resolve_model_folder(source)
            _copy_files(found, staging)
            origin = derived(found, verb)
            if origin is not None:
                write_json(staging / LINEAGE, {**origin, "weights": weights_of(staging)})
            run = found.parent if (found.parent / "summary.json").is_file() else None
        _add_chat_template(staging, chat_template)
        write_text(staging / "README.md", model_card(model, folder.name, run))
        if folder.exists():
            folder.rmdir()
        staging.rename(folder)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise unwritable(folder, error) from error
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return Exported(
        folder=folder,
        files=[path.name for path in files],
        parameters=model.num_parameters(),
        bytes=sum(path.stat().st_size for path in files),
    )


def _copy_files(source: Path, target: Path) -> None:
    """Copy a model's tokenizer; that of an adapter's base first, where it is here."""
    if is_adapter(source):
        base = Path(base_of(source)[0]).expanduser()
        if base.is_dir():
            _copy_files(resolve_model_folder(base), target)
    for name in COPIED_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _sound_template(path: str) -> str:
    """Return a template; one that Transformers could not compile is refused."""
    text = template_text(path)
    refuse_wrong_template(text, f"chat_template {path}")
    return text


def _add_chat_template(folder: Path, template: str | None) -> None:
    configuration = folder / "tokenizer_config.json"
    there = configuration.is_file() and "chat_template" in configuration.read_text(encoding="utf-8")
    tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
    if template is not None or (tokenizer and not there and not (folder / TEMPLATE_FILE).is_file()):
        write_text(folder / TEMPLATE_FILE, template or TURNS)
