"""The audit log: a line of JSON per request, without what was asked or answered."""

from __future__ import annotations

import json
import time
from typing import Any

from codex_ray.serve.lines import PrivateLines


class Audit:
    """Appends lines to a file that only its owner can read; None keeps no log.

    Raises:
        CodexRayError: the file cannot be written.
    """

    def __init__(self, path: str | None) -> None:
        self._lines = PrivateLines(path, "the audit log")

    @property
    def kept(self) -> bool:
        """Whether there is one."""
        return self._lines.kept

    def write(self, **entry: Any) -> None:
        """Add a line; one that cannot be written is an error of the request."""
        self._lines.append((json.dumps({"time": round(time.time(), 3), **entry}) + "\n").encode())
