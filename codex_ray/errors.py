"""The errors a user may see: one sentence naming the thing, the reason and the remedy.

The command line prints the sentence and exits with ``exit_code``; no traceback unless
``CODEX_RAY_TRACEBACK=1``. Library callers catch :class:`CodexRayError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CodexRayError(Exception):
    """A run that cannot go on: bad data, missing resources, a broken artefact (exit status 1)."""

    exit_code = 1


class ConfigError(CodexRayError):
    """A request that cannot be understood or cannot be right (exit status 2)."""

    exit_code = 2


class Interrupted(CodexRayError):
    """A run the user stopped; its last checkpoint is written (exit status 130)."""

    exit_code = 130


def nearest(name: str, valid: Iterable[str]) -> str:
    """Name the closest valid word, as the tail of an error sentence.

    Returns an empty string when nothing is close, so that it can always be appended.
    """
    match = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""
