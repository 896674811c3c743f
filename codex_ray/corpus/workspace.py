"""Where ``prepare`` builds, beside its output, and how the finished folder takes the output's place.

::

    corpus/                      the output
    .corpus.preparing/.lock      held while a prepare runs
    .corpus.preparing/new/       the corpus being built
    .corpus.preparing/old/       the corpus it replaces, for the moment between two renames
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from codex_ray.corpus.manifest import NAME
from codex_ray.errors import ConfigError
from codex_ray.files import folder_lock, unwritable


class Workspace:
    """The folders of one prepare into ``output``."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output.with_name(f".{output.name}.preparing")
        self.new = self.folder / "new"
        self._old = self.folder / "old"

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other prepares out, clear what an interrupted one left, and leave nothing behind.

        Raises:
            CodexRayError: another prepare is at work, or the folder cannot be written.
        """
        with folder_lock(self.folder, "prepare's folder"):
            if self._old.exists() and not self.output.exists():  # interrupted between two renames
                self._old.rename(self.output)
            self._clear()
            try:
                self.new.mkdir()
                yield
            except OSError as error:
                raise unwritable(Path(error.filename or self.new), error) from error
            finally:
                self._clear()
                with suppress(OSError):
                    (self.folder / ".lock").unlink()
                    self.folder.rmdir()

    def finish(self) -> None:
        """Give the new folder the output's name, whether or not there is an old one."""
        if self.output.exists():
            self.output.rename(self._old)
        self.new.rename(self.output)

    def _clear(self) -> None:
        shutil.rmtree(self.new, ignore_errors=True)
        if self.output.exists():
            shutil.rmtree(self._old, ignore_errors=True)


def check_output(output: Path, text: Path) -> None:
    """Refuse an output that is not there for the taking.

    Raises:
        ConfigError: it holds the text, is a file, or holds something that is no corpus.
    """
    if output == text or output in text.parents:
        raise ConfigError(f"output={output} holds the text itself; choose another folder")
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output={output} is a file; choose a folder")
    if output.is_dir() and any(output.iterdir()) and not (output / NAME).exists():
        raise ConfigError(f"output={output} holds other files and is no corpus; choose another folder")
