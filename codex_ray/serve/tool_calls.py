"""Calls of tools in what a model writes, as the two common ways have them.

``<tool_call>{"name": ..., "arguments": {...}}</tool_call>`` (Hermes, Qwen), any number of them, or a text
that is nothing but such an object, with ``arguments`` or ``parameters`` (Llama 3). Only tools that the
request named count; whatever else looks like a call is text.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection
from typing import NamedTuple

BEGIN, END = "<tool_call>", "</tool_call>"
_CALL = re.compile(rf"{BEGIN}(.*?)(?:{END}|\Z)", re.DOTALL)


class ToolCalled(NamedTuple):
    """One call: which tool, and its arguments as JSON."""

    identity: str
    name: str
    arguments: str


class CallParser:
    """Holds back the part of a text that may be calls until it has ended.

    Args:
        names: of the tools that may be called.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._held, self._begun = "", False  # and whether anything but blanks has been shown

    def feed(self, text: str) -> str:
        """Take what comes; return what is no call for certain."""
        self._held += text
        start = self._held.find(BEGIN)
        if not self._begun and self._held.lstrip()[:1] in ("", "{"):
            return ""  # blanks, or an object that may be the whole text
        stop = start if start >= 0 else len(self._held) - _overlap(self._held)
        shown, self._held = self._held[:stop], self._held[stop:]
        self._begun = self._begun or bool(shown.strip())
        return shown

    def end(self) -> tuple[str, list[ToolCalled]]:
        """Return the rest of the text, and the calls."""
        held, self._held = self._held, ""
        pieces = _CALL.findall(held)
        if not pieces and not self._begun:
            pieces = [held]
        calls = [self._call(piece) for piece in pieces]
        if not calls or not all(calls):
            return held, []
        return "", [call for call in calls if call is not None]

    def _call(self, text: str) -> ToolCalled | None:
        try:
            found = json.loads(text)
            name, arguments = found["name"], found.get("arguments", found.get("parameters", {}))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        if name not in self._names or not isinstance(arguments, dict):
            return None
        return ToolCalled(f"call_{secrets.token_hex(12)}", name, json.dumps(arguments))


def _overlap(text: str) -> int:
    """How much of a text's end may be the beginning of a call."""
    return next((size for size in range(len(BEGIN) - 1, 0, -1) if text.endswith(BEGIN[:size])), 0)
