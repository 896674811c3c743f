"""Where ``prepare`` builds, beside its output, and how the finished folder takes the output's place.

::

    corpus/                      the output
    .corpus.stages/.lock         held while a prepare runs
    .corpus.stages/STAGE/        results of stages, which the next prepare uses again
    .corpus.stages/old/          the corpus being replaced, for the moment between two renames
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
        self.folder = output.with_name(f".{output.name}.stages")
        self._old = self.folder / "old"

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other prepares out, and clear what one that was interrupted between two renames left.

        Raises:
            CodexRayError: another prepare is at work, or the folder cannot be written.
        """
        with folder_lock(self.folder, "prepare's folder"):
            if self._old.exists() and not self.output.exists():
                self._old.rename(self.output)
            self._clear()
            try:
                yield
            except OSError as error:
                raise unwritable(Path(error.filename or self.folder), error) from error
            finally:
                self._clear()
                with suppress(OSError):
                    (self.folder / ".lock").unlink()
                    self.folder.rmdir()  # only if no stage left anything

    def finish(self, building: Path) -> None:
        """Give a finished folder the output's name, whether or not there is an old one."""
        if self.output.exists():
            self.output.rename(self._old)
        building.rename(self.output)

    def forget(self) -> None:
        """Remove the results of all stages."""
        for folder in self.folder.iterdir():
            if folder.is_dir() and folder != self._old:
                shutil.rmtree(folder, ignore_errors=True)

    def _clear(self) -> None:
        if self.output.exists():
            shutil.rmtree(self._old, ignore_errors=True)


def check_output(output: Path, folders: list[Path]) -> None:
    """Refuse an output that is not there for the taking.

    Raises:
        ConfigError: it holds a folder of text, is a file, or holds something that is no corpus.
    """
    if any(output == folder or output in folder.parents for folder in folders):
        raise ConfigError(f"output={output} holds the text itself; choose another folder")
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output={output} is a file; choose a folder")
    if output.is_dir() and any(output.iterdir()) and not (output / NAME).exists():
        raise ConfigError(f"output={output} holds other files and is no corpus; choose another folder")
