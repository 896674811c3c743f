"""Answers that are kept: an evaluation that is cut off goes on with them, and one asked again takes them.

A file holds the answers of one model under one way of answering and one seed, a line for each example. A line
counts for an example of the same place and the same prompt. A last line that was torn is left out.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from codex_ray.errors import CodexRayError
from codex_ray.evaluate.metrics import Example
from codex_ray.evaluate.tasks import Task
from codex_ray.files import folder_lock, unwritable

FORMAT = 1
FILE = "answers.ndjson"


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        text: without an end token, cut before a stop string.
        tokens: how many were sampled; None where that is not known.
        finish_reason: ``stop`` or ``length``.
    """

    text: str
    tokens: int | None = None
    finish_reason: str = "stop"


@dataclass
class Answers:
    """The answers that are there, by place of their example, and the file that takes more."""

    task: Task
    found: dict[int, list[Answer]] = field(default_factory=dict)
    _stream: TextIO | None = None

    def missing(self) -> list[int]:
        """Return the places of examples without answers."""
        return [place for place in range(len(self.task.examples)) if place not in self.found]

    def add(self, place: int, answers: list[Answer]) -> None:
        """Keep an example's answers; those that were there first stay.

        Raises:
            CodexRayError: the disk is full.
        """
        if place in self.found:
            return
        self.found[place] = answers
        if self._stream is None:
            return
        line = {"place": place, "prompt": prompt_digest(self.task.examples[place])}
        try:
            self._stream.write(json.dumps(line | {"answers": [asdict(one) for one in answers]}) + "\n")
            self._stream.flush()
        except OSError as error:
            raise unwritable(Path(self._stream.name), error) from error


def default_folder() -> Path:
    """Return where answers are kept: ``codex_ray/answers`` in the user's folder of caches."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "codex_ray" / "answers"


def prompt_digest(example: Example) -> str:
    """Return a short hash of what a model is asked."""
    return hashlib.sha256(json.dumps(example.prompt, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def open_answers(folder: Path | None, task: Task, model: str, seed: int, *, reuse: bool) -> Iterator[Answers]:
    """Open the answers of a model to a task, held against other processes.

    Args:
        folder: of all kept answers; None keeps none.
        task: the task; ``model``: what names the model's weights; ``seed``: of the draws.
        reuse: take what is there; otherwise it is thrown away first.

    Raises:
        CodexRayError: another process is answering the same, or the folder cannot be written.
    """
    if folder is None:
        yield Answers(task)
        return
    asked = [FORMAT, model, task.name, task.version, asdict(task.answering), seed]
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]
    place = folder / key
    with folder_lock(place, "the folder of answers"):
        path = place / FILE
        if not reuse:
            path.unlink(missing_ok=True)
        found = _read(path, task)
        try:
            place.chmod(0o700)  # answers are kept as they were, whatever they hold
            with path.open("a", encoding="utf-8") as stream:
                yield Answers(task, found, stream)
        except OSError as error:
            raise unwritable(path, error) from error


def _read(path: Path, task: Task) -> dict[int, list[Answer]]:
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    found: dict[int, list[Answer]] = {}
    for line in whole.splitlines():
        try:
            record: dict[str, Any] = json.loads(line)
            place = record["place"]
            answers = [Answer(**one) for one in record["answers"]]
            wanted = place < len(task.examples) and record["prompt"] == prompt_digest(task.examples[place])
        except (ValueError, KeyError, TypeError) as error:
            raise CodexRayError(
                f"the kept answers in {path} are damaged ({error}); remove that file, or give reuse=false"
            ) from error
        if wanted:
            found.setdefault(place, answers)
    return found
