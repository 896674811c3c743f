"""Cutting a stream of JSON into its values without reading it whole.

Only strings and brackets are looked at, so that one wrong value does not spoil those after it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from codex_ray.corpus.sources.reasons import UnreadableError

OUTSIDE = re.compile(rb'["\[\]{},]')
INSIDE = re.compile(rb'["\\]')
BLANK = b" \t\r\n"


def json_values(source: Iterator[bytes], longest: int) -> Iterator[bytes | None]:
    """Yield the elements of an array, or the values that follow each other; None for an over-long one.

    Raises:
        UnreadableError: the data end inside a value, or something is out of place.
    """
    cutter = _Cutter(longest)
    for chunk in source:
        yield from cutter.feed(chunk)
    yield from cutter.end()


class _Cutter:
    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._held: list[bytes] = []
        self._size = 0
        self._depth = 0  # brackets open
        self._base: int | None = None  # brackets around the values: 1 in an array, 0 elsewhere
        self._text = False  # inside a string
        self._escaped = False  # after a backslash at the end of a chunk

    def feed(self, chunk: bytes) -> Iterator[bytes | None]:
        place = begin = 0
        if self._base is None:
            chunk = chunk.removeprefix(codecs.BOM_UTF8).lstrip(BLANK)
            if not chunk:
                return
            self._base = int(chunk.startswith(b"["))
            if self._base:
                self._depth = begin = place = 1
        if self._escaped:
            self._escaped, place = False, place + 1
        while found := (INSIDE if self._text else OUTSIDE).search(chunk, place):
            mark, place = found.group(), found.end()
            if self._text:
                if mark == b'"':
                    self._text = False
                elif place == len(chunk):
                    self._escaped = True
                    break
                else:
                    place += 1
                continue
            if mark == b'"':
                self._text = True
            elif mark in b"[{":
                self._depth += 1
            elif mark == b",":
                if self._base == 1 and self._depth == 1:
                    yield from self._take(chunk[begin : place - 1], comma=True)
                    begin = place
            else:
                self._depth -= 1
                if self._base == 0 and self._depth <= 0:
                    self._depth = 0
                    yield from self._take(chunk[begin:place])
                    begin = place
                elif self._base == 1 and self._depth == 0:
                    yield from self._take(chunk[begin : place - 1])
                    self._base, begin = 0, place  # what follows the array is cut as values too
        self._hold(chunk[begin:])

    def end(self) -> Iterator[bytes | None]:
        if self._base == 1 or self._depth or self._text:
            raise UnreadableError("damaged: the JSON ends inside a value")
        yield from self._take(b"")

    def _hold(self, part: bytes) -> None:
        if not self._size:
            part = part.lstrip(BLANK)
        self._size += len(part)
        if self._size <= self._longest:
            self._held.append(part)
        else:
            self._held = []

    def _take(self, part: bytes, *, comma: bool = False) -> Iterator[bytes | None]:
        self._hold(part)
        value, size = b"".join(self._held), self._size
        self._held, self._size = [], 0
        if size > self._longest:
            yield None
        elif value.strip(BLANK) or comma:
            yield value
