"""The model that a run begins with, its chat template, and examples made for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from codex_ray.files import write_text

if TYPE_CHECKING:
    from codex_ray.config.finetune import Examples
    from codex_ray.corpus.manifest import Manifest
    from codex_ray.tokenizer.conversation import ChatTemplate


def place_of(model: str) -> str:
    """Return a model's name as every node finds it: a folder by its whole path."""
    folder = Path(model).expanduser()
    return str(folder.absolute()) if folder.is_dir() else model


def template_of(model: str, given: str | None = None) -> ChatTemplate:
    """Return the template of a file, else the model's own, with the model's tokenizer.

    Raises:
        ConfigError: the file is no template.
        CodexRayError: there is no such model.
    """
    from codex_ray.rollout.load import tokenizer_folder
    from codex_ray.tokenizer import Tokenizer
    from codex_ray.tokenizer.conversation import ChatTemplate

    folder = tokenizer_folder(model, None)
    return ChatTemplate.of(Tokenizer.load(folder), folder, given)


def examples_of(data: Examples, template: ChatTemplate, folder: Path, **how: Any) -> Manifest:
    """Make a folder of examples that has the template beside the tokenizer.

    Arguments and errors are those of :func:`codex_ray.corpus.examples.prepare_examples`.
    """
    from codex_ray.corpus.examples import prepare_examples
    from codex_ray.tokenizer.chat import TEMPLATE_FILE

    manifest = prepare_examples(data, template, folder, **how)
    write_text(manifest.folder / "tokenizer" / TEMPLATE_FILE, template.text)
    return manifest
