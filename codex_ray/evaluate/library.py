"""Tasks by name: those that are here, YAML files, and files of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from codex_ray.config.common import DEFAULT_SEED
from codex_ray.config.evaluate import OWN, Rows
from codex_ray.corpus.documents import Document
from codex_ray.corpus.sources.storage import is_url
from codex_ray.errors import ConfigError, nearest
from codex_ray.evaluate.canaries import canaries_task
from codex_ray.evaluate.code_tasks import next_line_task, signatures_task
from codex_ray.evaluate.probes import arithmetic_task, copy_task
from codex_ray.evaluate.task_files import SUFFIXES, read_task, task_of_rows
from codex_ray.evaluate.tasks import Task

EXAMPLES = 200  # of a task that is made here, where no number is asked for


@dataclass(frozen=True)
class Ingredients:
    """What tasks are made of here.

    Attributes:
        count: examples wanted; seed: of their choice.
        corpus: folder of the corpus that the model was trained on.
        documents: held-out files of Python, from it; empty takes this Python's standard library.
    """

    count: int
    seed: int
    corpus: str | None = None
    documents: tuple[Document, ...] = ()


TASKS: dict[str, Callable[[Ingredients], Task]] = {
    "arithmetic": lambda made: arithmetic_task(made.count, made.seed),
    "copy": lambda made: copy_task(made.count, made.seed),
    "next_line": lambda made: next_line_task(made.count, made.seed, made.documents),
    "signatures": lambda made: signatures_task(made.count, made.seed, made.documents),
    "canaries": lambda made: canaries_task(made.corpus).first(made.count),
    "canaries_control": lambda made: canaries_task(made.corpus, planted=False).first(made.count),
}
"""The tasks that need no download, by name."""

MADE_OF_CODE = frozenset({"next_line", "signatures"})
"""Those that are made of documents."""


def load_task(
    name: str,
    rows: Rows | None = None,
    *,
    count: int | None = None,
    seed: int = DEFAULT_SEED,
    corpus: str | None = None,
    documents: tuple[Document, ...] = (),
) -> Task:
    """Return a task by its name, from its YAML file, or from a file of rows.

    Args:
        name: one of :data:`TASKS`, or a file.
        rows: how a file of rows is read.
        count: most examples; unset takes all of a file, and 200 of what is made here.
        seed: of the choice of what is made here.
        corpus: the corpus whose canaries are asked for.
        documents: held-out files for the tasks that are made of code.

    Raises:
        ConfigError: there is no such task; the sentence names the nearest.
        CodexRayError: its file cannot be read, or a row lacks a column.
    """
    if name in TASKS:
        return TASKS[name](Ingredients(count or EXAMPLES, seed, corpus, documents))
    if name.endswith(SUFFIXES):
        return read_task(name, count)
    if is_url(name) or Path(name).expanduser().exists() or "*" in name:
        return task_of_rows(rows or Rows(), name, count=count)
    here = [*TASKS, *OWN]
    raise ConfigError(
        f"unknown task {name!r}{nearest(name, here)}; it is one of {', '.join(here)}, a YAML file or a "
        "file of rows"
    )
