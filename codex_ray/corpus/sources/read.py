"""Reading a unit: every document and every record in it becomes one item, as text or with a reason.

Names of items are unique within a source: ``relative/path.py`` of a file, ``relative/path.csv:17`` of
a record (see :mod:`codex_ray.corpus.sources.records`), ``archive.zip/member.txt`` and
``archive.zip/member.csv:17`` of what is in an archive; ``#2`` follows the name of a member that an
archive holds twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from codex_ray.config.corpus import Limits, Source
from codex_ray.corpus.cleaning.decode import no_text
from codex_ray.corpus.raw import Quarantined, Raw
from codex_ray.corpus.sources import records, tables
from codex_ray.corpus.sources.archives import Member, base_name, tar_members, zip_members
from codex_ray.corpus.sources.brought import records_of
from codex_ray.corpus.sources.decompress import Allowance, decompressed
from codex_ray.corpus.sources.folders import entry_of
from codex_ray.corpus.sources.names import ARCHIVES, compression_of, kind_of, label_of
from codex_ray.corpus.sources.reasons import UnreadableError, too_large
from codex_ray.corpus.sources.records import Record
from codex_ray.corpus.sources.storage import Opened, is_url, open_file
from codex_ray.corpus.sources.streams import Pipe, Readable, read_all
from codex_ray.corpus.sources.text_of import TextOf
from codex_ray.corpus.sources.units import Unit
from codex_ray.errors import CodexRayError

Item = Raw | Quarantined


class Extract(Protocol):
    """Takes what is wanted out of records; :class:`TextOf` is one."""

    def columns(self, available: Collection[str]) -> list[str]:
        """Return which columns of a table must be read."""

    def __call__(self, record: Mapping[str, Any]) -> str:
        """Return what is wanted, or raise UnreadableError."""


def read_unit(unit: Unit, source: Source, limits: Limits, extract: Extract | None = None) -> Iterator[Item]:
    """Read a unit, in order and in bounded memory.

    Memory holds a document (``limits.file_bytes``) or a record (``limits.line_bytes``), and of Parquet
    and Arrow files a batch of rows; a Parquet file that is compressed or in an archive is held whole, and
    may be as long as a document.

    ``extract`` takes what is wanted out of records; unset is their text, as the source's settings say.

    Yields:
        One item per document or record; what is damaged ends in one item with the reason, after all
        that could be read before it.

    Raises:
        CodexRayError: a remote store stopped answering, or a local file changed while it was read.
        ConfigError: the source's settings contradict each other.
    """
    name = label_of(unit.name)
    if unit.problem:
        yield Quarantined(name, unit.problem)
        return
    reader = _Reader(unit, source, limits, extract or TextOf(source))
    if unit.kind == "component":
        yield from reader.records(name, records_of(unit.path, unit.name))
        return
    anywhere = unit.kind == "zip" or (unit.kind in ("parquet", "jsonl") and not compression_of(unit.name))
    try:
        with open_file(unit.path, anywhere=anywhere) as file:
            yield from reader.file(file, name)
    except UnreadableError as error:  # of each slice by itself: another may have been read before
        yield Quarantined(name + (f"@{unit.start}" if unit.start else ""), str(error))
    _check_unchanged(unit)


def _check_unchanged(unit: Unit) -> None:
    """Refuse a local file that is another one than was listed: what was read may be half of each."""
    if is_url(unit.path):
        return
    now = entry_of(Path(unit.path), unit.name)
    if now.problem is None and now.version != unit.version:
        raise CodexRayError(
            f"{unit.path} changed while it was read; run prepare again when nothing writes to it any more"
        )


class _Reader:
    """Reads the kinds of files, alone and as members of archives."""

    def __init__(self, unit: Unit, source: Source, limits: Limits, extract: Extract) -> None:
        self._unit = unit
        self._source = source
        self._limits = limits
        self._extract = extract

    def file(self, file: Opened, name: str) -> Iterator[Item]:
        """Read the unit's own file."""
        unit, limits = self._unit, self._limits
        allowance = Allowance(unit.size, limits.expansion)
        compression = compression_of(unit.name)
        if unit.kind in ARCHIVES:
            pipe = Pipe(decompressed(file, compression, allowance))
            members = zip_members(file, allowance) if unit.kind == "zip" else tar_members(pipe, allowance)
            yield from self._members(members, name, allowance)
        elif compression is None and unit.kind == "jsonl":
            lines = records.json_lines_slice(file, unit.start, unit.stop, limits.line_bytes)
            yield from self.records(name, lines)
        elif compression is None and unit.kind == "parquet":
            rows = tables.parquet_records(
                file, self._extract.columns, limits.expansion, unit.start, unit.stop
            )
            yield from self.records(name, rows, allowance)
        else:
            yield from self._stream(file, unit.name, unit.kind, name, allowance)

    def _stream(
        self, stream: Readable, file_name: str, kind: str, name: str, allowance: Allowance
    ) -> Iterator[Item]:
        """Read a file in order: one that is packed up, or of a kind that is never cut."""
        limits = self._limits
        source = decompressed(stream, compression_of(file_name), allowance)
        if kind == "text":
            yield _document(name, lambda: read_all(source, limits.file_bytes, "file"))
        elif kind == "jsonl":
            yield from self.records(name, records.json_lines(source, limits.line_bytes))
        elif kind == "json":
            yield from self.records(name, records.json_file(source, limits.line_bytes))
        elif kind in ("csv", "tsv"):
            delimiter = "," if kind == "csv" else "\t"
            yield from self.records(name, records.csv_records(source, limits.line_bytes, delimiter))
        elif kind == "arrow":
            yield from self.records(
                name, tables.arrow_records(Pipe(source), self._extract.columns), allowance
            )
        else:
            try:
                whole = pa.BufferReader(read_all(source, limits.file_bytes, "Parquet file that is packed up"))
            except UnreadableError as error:
                yield Quarantined(name, str(error))
                return
            rows = tables.parquet_records(whole, self._extract.columns, limits.expansion)
            yield from self.records(name, rows, allowance)

    def _members(self, members: Iterator[Member], name: str, allowance: Allowance) -> Iterator[Item]:
        """Read the members that a folder's files would be read for; an archive without any is one item."""
        wanted = 0
        count = 0
        try:
            for member in members:
                count += 1
                below = f"{name}/{member.label}"
                kind = kind_of(base_name(member.name), self._source.format, self._unit.suffixes, named=False)
                if kind is None:
                    continue
                wanted += 1
                if isinstance(member.stream, UnreadableError):
                    yield Quarantined(below, str(member.stream))
                elif kind in ARCHIVES:
                    yield Quarantined(below, "cannot be read: an archive inside an archive")
                else:
                    yield from self._stream(member.stream, member.name, kind, below, member.allowance)
                if allowance.exceeded:
                    return
            if not wanted:
                yield Quarantined(
                    name, f"no text: none of its {count} members has a name that says text or records"
                )
        except UnreadableError as error:
            yield Quarantined(name, str(error))

    def records(
        self, name: str, found: Iterator[Record], allowance: Allowance | None = None
    ) -> Iterator[Item]:
        """Turn records into items; ``allowance`` counts text that no decompressor here has counted."""
        for place, record in found:
            try:
                if isinstance(record, UnreadableError):
                    raise record
                text = self._extract(record)
                _check(text, self._limits.line_bytes)
            except UnreadableError as error:
                yield Quarantined(name + place, str(error))
                continue
            try:
                if allowance:
                    allowance.charge(len(text))
            except UnreadableError as error:
                yield Quarantined(name + place, str(error))
                return
            yield Raw(name + place, text)


def _document(name: str, read: Callable[[], bytes]) -> Item:
    try:
        return Raw(name, read())
    except UnreadableError as error:
        return Quarantined(name, str(error))


def _check(text: str, longest: int) -> None:
    """Refuse text that no file could hold as UTF-8, or that is too long."""
    if len(text) > longest:
        raise too_large("text", longest)
    if problem := no_text(text):
        raise UnreadableError(problem)
