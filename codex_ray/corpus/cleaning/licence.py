"""Cutting licence headers: the comments at the top of a source file that name a licence or a copyright.

They are the most repeated text of all source code, say nothing about it, and take up the start of a row.
"""

from __future__ import annotations

import re

from codex_ray.corpus.cleaning.comments import Comments, comments_of
from codex_ray.corpus.raw import Dropped

_KEPT = re.compile(r"#!|<\?xml|<\?php|<!doctype|#.*coding[:=]|%!|\"use strict\"", re.IGNORECASE)
_LICENCE = re.compile(
    r"copyright|\(c\)\s*(?:19|20)\d\d|©\s*(?:19|20)\d\d|all rights reserved|spdx-license-identifier"
    r"|licen[cs]ed (?:under|to)|permission is hereby granted|redistribution and use in source"
    r"|general public licen[cs]e|\b(?:apache|mit|bsd|isc|mozilla public|boost software|zlib) licen[cs]e"
    r"|see (?:the )?licen[cs]e|licen[cs]e (?:terms|agreement|file)|public domain|part of the llvm project",
    re.IGNORECASE,
)


class LicenceHeaders:
    """Cut leading comments that name a licence or a copyright; interpreter and encoding lines stay."""

    name = "licence header"

    def apply(self, text: str, name: str) -> str | Dropped:
        """Return the text without them; files of unknown languages stay as they are."""
        comments = comments_of(name)
        return text if comments is None else cut(text, comments)


def cut(text: str, comments: Comments) -> str:
    """Cut every comment block at the top that names a licence, with the empty lines around it."""
    lines = text.splitlines(keepends=True)
    kept: list[str] = []
    gap: list[str] = []  # empty lines, which go with the header that follows
    place, found = 0, False
    while place < len(lines):
        line = lines[place]
        if _KEPT.match(line):
            kept += [*gap, line]
            gap, place = [], place + 1
        elif not line.strip():
            gap.append(line)
            place += 1
        else:
            end = _block_end(lines, place, comments)
            if end == place or not _LICENCE.search("".join(lines[place:end])):
                break
            gap, place, found = [], _after_blank(lines, end), True
    return "".join(kept + gap + lines[place:]) if found else text


def _after_blank(lines: list[str], place: int) -> int:
    while place < len(lines) and not lines[place].strip():
        place += 1
    return place


def _block_end(lines: list[str], place: int, comments: Comments) -> int:
    """Return the line after the comment block that begins at a line; that line where none begins."""
    if comments.begin and lines[place].lstrip().startswith(comments.begin):
        return _enclosed_end(lines, place, comments)
    if not comments.line:
        return place
    while place < len(lines) and _is_comment(lines[place], comments):
        place += 1
    return place


def _is_comment(line: str, comments: Comments) -> bool:
    """Whether a line is a comment; what begins with the same sign but instructs a tool is none."""
    begun = line.lstrip().startswith(comments.line)
    return begun and not line.startswith("//go:") and not _KEPT.match(line)


def _enclosed_end(lines: list[str], place: int, comments: Comments) -> int:
    inside = lines[place].lstrip()[len(comments.begin) :]
    for end in range(place, len(lines)):
        _, closed, after = (inside if end == place else lines[end]).partition(comments.end)
        if closed:
            return end + 1 if not after.strip() else place  # code follows on the same line: not a header
    return place
