"""Globs over names: ``*`` and ``?`` stay within a folder, ``**`` crosses folders, hidden names need a dot."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

MAGIC = re.compile(r"[*?\[]")
MAGIC_IN_URL = re.compile(r"[*\[]")  # a question mark begins the query there


@dataclass(frozen=True)
class Pattern:
    """The parts of a glob below the last folder that it names outright."""

    parts: tuple[str, ...]

    def matches(self, name: str) -> bool:
        """Say whether a file of this path below the glob's folder is meant."""
        return _matches(self.parts, tuple(name.split("/")))

    def may_hold(self, folder: str) -> bool:
        """Say whether files below this folder can be meant, so that others need not be visited."""
        return _may_hold(self.parts, tuple(folder.split("/")))


def split_pattern(path: str, magic: re.Pattern[str] = MAGIC) -> tuple[str, Pattern | None]:
    """Split a path at its first part with a wildcard: the folder before, and the pattern below it."""
    parts = path.split("/")
    for index, part in enumerate(parts):
        if magic.search(part):
            rest = tuple(parts[index:])
            folder = "/".join(parts[:index]) or ("/" if path.startswith("/") else ".")
            return folder, Pattern((*rest, "*") if rest[-1] == "**" else rest)
    return path, None


def _matches(pattern: tuple[str, ...], names: tuple[str, ...]) -> bool:
    if not pattern or not names:
        return not pattern and not names
    if pattern[0] == "**":
        return _matches(pattern[1:], names) or (not names[0].startswith(".") and _matches(pattern, names[1:]))
    return _fits(pattern[0], names[0]) and _matches(pattern[1:], names[1:])


def _may_hold(pattern: tuple[str, ...], names: tuple[str, ...]) -> bool:
    if not names or not pattern:
        return bool(pattern)
    if pattern[0] == "**":
        return True
    return _fits(pattern[0], names[0]) and _may_hold(pattern[1:], names[1:])


def _fits(part: str, name: str) -> bool:
    return fnmatchcase(name, part) and (part.startswith(".") or not name.startswith("."))
