"""The audit log: a line of JSON per request, without what was asked or answered."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from codex_ray.errors import CodexRayError
from codex_ray.files import unwritable


class Audit:
    """Appends lines to a file that only its owner can read; None keeps no log.

    Raises:
        CodexRayError: the file cannot be written.
    """

    def __init__(self, path: str | None) -> None:
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
        """Whether there is one."""
        return self._handle is not None

    def write(self, **entry: Any) -> None:
        """Add a line; one that cannot be written is an error of the request."""
        if self._handle is None:
            return
        line = json.dumps({"time": round(time.time(), 3), **entry}) + "\n"
        try:
            os.write(self._handle, line.encode())
        except OSError as error:
            raise CodexRayError(f"the audit log cannot be written ({error.strerror})") from error
