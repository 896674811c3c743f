"""The problems that are here, by name, and the languages that each can be written in: where they are made."""

from __future__ import annotations

from collections.abc import Mapping

from codex_ray.plugins import own

OPERATORS, PYTHON, TEXT = "operators", "python", "text"
COMMAND = "command"

PROBLEMS: Mapping[str, Mapping[str, str]] = own("problems")
