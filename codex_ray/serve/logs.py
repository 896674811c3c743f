"""Log lines without secrets: of every logger of the process, messages and tracebacks alike."""

from __future__ import annotations

import logging
from typing import Any

from codex_ray.safety import redact


def masked(text: str) -> str:
    """A text with its keys, tokens and passwords masked."""
    return redact(text, secrets="mask", personal="keep").text


class MaskedRecord(logging.LogRecord):
    """A record whose message and traceback hold no secrets, whoever formats it."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.msg, self.args = masked(super().getMessage()), ()
        if self.exc_info:  # formatters take the text where it is there
            self.exc_text, self.exc_info = masked(logging.Formatter().formatException(self.exc_info)), None
        if self.stack_info:
            self.stack_info = masked(self.stack_info)


def mask_logs() -> None:
    """Mask what this process logs from now on."""
    logging.setLogRecordFactory(MaskedRecord)
