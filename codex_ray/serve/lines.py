"""A file of JSON lines that only its owner can read."""

from __future__ import annotations

import os
from pathlib import Path

from codex_ray.errors import CodexRayError
from codex_ray.files import unwritable


class PrivateLines:
    """Appends lines; a path of None keeps none.

    Args:
        path: the file; ``what``: names it in errors.

    Raises:
        CodexRayError: the file cannot be written.
    """

    def __init__(self, path: str | None, what: str) -> None:
        self._what = what
        self._handle: int | None = None
        if path is None:
            return
        file = Path(path).expanduser()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unwritable(file, error) from error

    @property
    def kept(self) -> bool:
        """Whether there is a file."""
        return self._handle is not None

    def size(self) -> int:
        """Bytes of the file as it is now."""
        return 0 if self._handle is None else os.fstat(self._handle).st_size

    def append(self, data: bytes) -> None:
        """Add a line, where there is a file.

        Raises:
            CodexRayError: it cannot be written.
        """
        if self._handle is None:
            return
        try:
            os.write(self._handle, data)
        except OSError as error:
            raise CodexRayError(f"{self._what} cannot be written ({error.strerror})") from error
