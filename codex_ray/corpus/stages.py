"""Results of stages on disk, each under the digest of everything that decides it.

::

    .corpus.stages/read/3f2a.../done.json      written last: its presence means that the rest is whole
    .corpus.stages/read/3f2a.../documents.parquet
    .corpus.stages/read/.3f2a.../             being made; takes the name without the dot when it is whole

So a stage that was done for the same text and settings is not done again, whatever else changed, and an
interrupted prepare goes on where it stood. What the last prepare did not ask for is removed when it ends.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codex_ray.errors import CodexRayError
from codex_ray.files import read_json, unwritable, write_json

DONE = "done.json"


def digest(value: Any) -> str:
    """Hash plain data, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """The folder of one result; small enough to travel with a task."""

    folder: Path

    def result(self) -> Any | None:
        """Return what was recorded when the result was complete, or None while it is not.

        A damaged record counts as none: the result is made again.
        """
        path = self.folder / DONE
        try:
            return read_json(path, "stage result") if path.exists() else None
        except CodexRayError:
            return None

    @contextmanager
    def making(self) -> Iterator[Path]:
        """Give an empty folder to write into, which takes the result's place when the block ends well.

        Several may make the same result at a time: Ray begins a task anew when its node seems lost, and the
        first may still be writing. Each has a folder of its own, and the first whole one stays.

        Raises:
            CodexRayError: it cannot be written, because the disk is full or it is forbidden.
        """
        folder = self.folder.with_name(f".{self.folder.name}.{secrets.token_hex(4)}")
        try:
            folder.mkdir(parents=True)
            yield folder
            self._put(folder)
        except OSError as error:
            raise unwritable(Path(error.filename or self.folder), error) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _put(self, folder: Path) -> None:
        try:
            folder.rename(self.folder)
        except OSError:
            if self.result() is None:  # what is there is damaged
                shutil.rmtree(self.folder, ignore_errors=True)
                folder.rename(self.folder)


def finish(folder: Path, result: Any) -> None:
    """Record, in the folder of a result that is being made, that it is complete; ``result`` is plain data."""
    write_json(folder / DONE, result)


class Stages:
    """All results of one corpus, and which of them this prepare asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._asked: set[Path] = set()

    def clear(self) -> None:
        """Remove what an interrupted prepare was making; nobody else may be at work."""
        for folder in self.folder.glob("*/.*"):
            shutil.rmtree(folder, ignore_errors=True)

    def entry(self, stage: str, key: Any) -> Entry:
        """Return the place of the result of ``stage`` for ``key``, plain data that decides it."""
        folder = self.folder / stage / digest(key)[:32]
        self._asked.add(folder)
        return Entry(folder)

    def sweep(self) -> None:
        """Remove results that this prepare did not ask for."""
        for stage in (path for path in self.folder.iterdir() if path.is_dir()):
            for folder in stage.iterdir():
                if folder not in self._asked:
                    shutil.rmtree(folder, ignore_errors=True)
