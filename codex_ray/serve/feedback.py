"""What users prefer, kept with their consent: lines of JSON that ``finetune method=dpo`` takes."""

from __future__ import annotations

import json
import time
from typing import Any

from codex_ray.safety import redact
from codex_ray.serve.errors import ApiError
from codex_ray.serve.lines import PrivateLines
from codex_ray.serve.requests import Preference

MOST_BYTES = 2**30
"""The file is not let grow longer: whoever may ask could fill the disk."""


class Feedback:
    """Appends preferences to a file that only its owner can read; None keeps none.

    Secrets and personal data are masked: what is trained on is learnt by heart.

    Raises:
        CodexRayError: the file cannot be written.
    """

    def __init__(self, path: str | None) -> None:
        self._lines = PrivateLines(path, "the file of preferences")

    @property
    def kept(self) -> bool:
        """Whether there is a file."""
        return self._lines.kept

    def keep(self, given: Preference, owner: str | None) -> None:
        """Add a line.

        Raises:
            ApiError: nothing is kept here, or the file is full.
            CodexRayError: it cannot be written.
        """
        if not self.kept:
            raise ApiError(404, "this server keeps no preferences (feedback=FILE)", code="no_feedback")
        line = _masked(
            {
                "messages": [message.plain() for message in given.messages],
                "chosen": given.chosen,
                "rejected": given.rejected,
            }
        )
        line |= {"model": given.model, "how": given.how, "key": owner, "time": round(time.time(), 3)}
        data = (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", errors="replace")
        if self._lines.size() + len(data) > MOST_BYTES:
            raise ApiError(507, "the file of preferences is full", code="full")
        self._lines.append(data)


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value, secrets="mask", personal="mask").text
    if isinstance(value, list):
        return [_masked(one) for one in value]
    if isinstance(value, dict):
        return {key: _masked(one) for key, one in value.items()}
    return value
