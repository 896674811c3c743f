"""Records of JSON and CSV files, in order: each an object or the reason why it is none.

A record's place ends its name: ``:17`` is the seventeenth line of compressed JSON Lines, or the
seventeenth record of other formats; ``@12345`` is the line of plain JSON Lines that begins at that
byte, since a task that reads a slice of such a file does not know how many lines precede it.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator
from typing import Any

from codex_ray.corpus.sources.json_values import json_values
from codex_ray.corpus.sources.reasons import UnreadableError, not_utf8, too_large
from codex_ray.corpus.sources.storage import Opened
from codex_ray.corpus.sources.streams import CHUNK, Lines, chunks

Record = tuple[str, dict[str, Any] | UnreadableError]


def json_lines(source: Iterator[bytes], longest: int) -> Iterator[Record]:
    """Read JSON Lines in order, places by line; blank lines are no records."""
    lines = Lines(source, longest)
    try:
        for line in lines:
            record = _line_record(line, longest, first=lines.number == 1)
            if record is not None:
                yield f":{lines.number}", record
    except UnreadableError as error:
        yield f":{lines.number}", error


def json_lines_slice(stream: Opened, start: int, stop: int | None, longest: int) -> Iterator[Record]:
    """Read the JSON Lines that begin in ``[start, stop)``, places by byte."""
    lines = Lines(chunks(stream), longest, start)
    try:
        if start:
            lines.offset = _next_line(stream, start, stop)
        if stop is not None and lines.offset >= stop:
            return
        for line in lines:
            if stop is not None and lines.offset >= stop:
                return
            record = _line_record(line, longest, first=lines.offset == 0)
            if record is not None:
                yield f"@{lines.offset}", record
    except UnreadableError as error:
        yield f"@{lines.offset}", error


def json_file(source: Iterator[bytes], longest: int) -> Iterator[Record]:
    """Read a ``.json`` file: an array of objects, one object, or several (one per line, or laid out).

    A first line that is a whole object says that each line is one.
    """
    head = b""
    try:
        for chunk in source:
            head += chunk
            if len(head.lstrip()) > 1 and (b"\n" in head.lstrip() or len(head) > CHUNK):
                break
    except UnreadableError as error:
        yield ":1", error
        return
    first = head.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")[0].rstrip()
    rest = _chain(head, source)
    if first.startswith(b"{") and (first.endswith(b"}") or len(first) > CHUNK):
        yield from json_lines(rest, longest)
        return
    number = 0
    try:
        for number, value in enumerate(json_values(rest, longest), 1):
            yield f":{number}", too_large("value", longest) if value is None else parse_object(value)
    except UnreadableError as error:
        yield f":{number + 1}", error


def csv_records(source: Iterator[bytes], longest: int, delimiter: str) -> Iterator[Record]:
    """Read a table with a header; places count records, the header not included."""
    text = _TextLines(Lines(source, longest), longest)
    csv.field_size_limit(longest)
    rows = csv.reader(text, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    number = 0
    while True:
        text.begin_record()
        try:
            row = next(rows, None)
        except csv.Error as error:
            number += 1
            yield f":{number}", UnreadableError(f"not CSV: {error}")
            if header is None:  # nothing says which column is which
                return
            continue
        except UnreadableError as error:
            number += 1
            yield f":{number}", error
            if header is None or text.ended:
                return
            continue
        if row is None:
            return
        if not row:  # a blank line
            continue
        if header is None:
            header = row
            continue
        number += 1
        yield f":{number}", _row_record(header, row)


def parse_object(data: bytes) -> dict[str, Any] | UnreadableError:
    """Return a JSON object, or why it is none."""
    try:
        value = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return not_utf8(error)
    except RecursionError:
        return UnreadableError("not JSON: nested too deeply")
    except ValueError as error:
        return UnreadableError(f"not JSON: {str(error)[:200]}")
    if not isinstance(value, dict):
        return UnreadableError(f"not JSON: a {type(value).__name__} in place of an object")
    return value


def _line_record(line: bytes | None, longest: int, *, first: bool) -> dict[str, Any] | UnreadableError | None:
    """Return the record of a line; None for a blank one."""
    if line is None:
        return too_large("line", longest)
    if first:
        line = line.removeprefix(codecs.BOM_UTF8)
    return parse_object(line) if line.strip() else None


def _next_line(stream: Opened, start: int, stop: int | None) -> int:
    """Go to the first line that begins at ``start`` or later, and return where; give up at ``stop``."""
    stream.seek(start - 1)
    place = start - 1
    for chunk in chunks(stream):
        found = chunk.find(b"\n")
        if found >= 0:
            stream.seek(place + found + 1)
            return place + found + 1
        place += len(chunk)
        if stop is not None and place >= stop:
            break
    return place if stop is None else max(place, stop)


def _chain(head: bytes, source: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from source


def _row_record(header: list[str], row: list[str]) -> dict[str, Any] | UnreadableError:
    if len(row) != len(header):
        return UnreadableError(f"not CSV: {len(row)} fields where the header has {len(header)}")
    record: dict[str, Any] = {}
    for name, value in zip(header, row, strict=True):
        try:
            value.encode()
            record[name] = value
        except UnicodeEncodeError:  # bytes that are no UTF-8 came through as surrogates
            try:
                value.encode("utf-8", "surrogateescape").decode("utf-8")
            except UnicodeDecodeError as error:
                record[name] = not_utf8(error)
    return record


class _TextLines:
    """Lines for ``csv.reader``, which may be asked for more after an error (a generator may not)."""

    def __init__(self, lines: Lines, longest: int) -> None:
        self._lines = lines
        self._iterator = iter(lines)
        self._longest = longest
        self._taken = 0
        self.ended = False

    def begin_record(self) -> None:
        self._taken = 0

    def __iter__(self) -> _TextLines:
        return self

    def __next__(self) -> str:
        try:
            line = next(self._iterator)
        except UnreadableError:
            self.ended = True
            raise
        self._taken += self._longest + 1 if line is None else len(line) + 1
        if line is None or self._taken > self._longest + 1:
            raise too_large("record", self._longest)
        if self._lines.number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        return line.decode("utf-8", "surrogateescape") + "\n"
