"""Reading the index of a corpus: which document each run of a source's tokens is of, and those tokens.

The lines of a source are sorted by offset over all its files, so a place is found from the row groups'
statistics. Memory is one row group of the index and one of rows, whatever the corpus holds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from codex_ray.corpus.direct import RowReader
from codex_ray.corpus.manifest import Manifest, SourceRows, check_size, damaged
from codex_ray.corpus.tokenising import INDEX

Int64 = NDArray[np.int64]
CONTIGUOUS, BEST_FIT = "contiguous", "best_fit"


@dataclass(frozen=True)
class Line:
    """A run of a document's tokens, as :data:`codex_ray.corpus.tokenising.INDEX` has it."""

    name: str
    sha256: bytes
    bytes: int
    offset: int
    tokens: int


@dataclass(frozen=True)
class _Group:
    """A row group of an index file, and the offset of its first line."""

    path: Path
    number: int
    first: int


def packing_method(manifest: Manifest, source: str) -> str:
    """Name the packing of a source's rows; corpora that were joined keep their sources' own."""
    method: str = manifest.settings_of(source).get("pack", {}).get("method", CONTIGUOUS)
    return method


class SourceReader:
    """The index and the tokens of one source of a split.

    Args:
        manifest: a loaded manifest.
        split: a split of it.
        number: place of the source among the split's.
    """

    def __init__(self, manifest: Manifest, split: str, number: int) -> None:
        self.manifest, self.split = manifest, split
        info = manifest.splits[split]
        self.info: SourceRows = info.sources[number]
        self.length = manifest.sequence_length
        self.first_row = sum(source.rows for source in info.sources[:number])
        self.stored_tokens = self.info.rows * self.length
        self._group_rows = info.row_group_rows
        self._block: tuple[int, NDArray[Any]] = (-1, np.empty(0, manifest.dtype))  # read last
        self._table: tuple[int, pa.Table] = (-1, INDEX.empty_table())  # read last

    def tables(self, columns: Sequence[str] = INDEX.names) -> Iterator[pa.Table]:
        """Iterate over the index by row groups.

        Raises:
            CodexRayError: an index file is missing, cut short or damaged.
        """
        for group in self._groups:
            yield _read(group, list(columns))

    def overlapping(self, start: int, stop: int) -> Iterator[Line]:
        """Iterate over the lines that have tokens among [``start``, ``stop``) of the source."""
        if start >= stop:
            return
        first = max(0, bisect_right([group.first for group in self._groups], start) - 1)
        for number, group in enumerate(self._groups[first:], first):
            if group.first >= stop:
                return
            if self._table[0] != number:
                self._table = number, _read(group, INDEX.names)
            table = self._table[1]
            offsets, tokens = numbers(table, "offset"), numbers(table, "tokens")
            inside = np.flatnonzero((offsets < stop) & (offsets + tokens > start))
            yield from lines(table.take(inside))

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Iterate over tokens [``start``, ``stop``) of the source, as far as rows hold them.

        Each block is the offset of its first token and the tokens, flat; one row group at a time.
        """
        stop = min(stop, self.stored_tokens)
        step = self._group_rows * self.length
        for begin in range(start // step * step, stop, step) if start < stop else ():
            end = min(begin + step, self.stored_tokens)
            if self._block[0] != begin:
                rows = np.arange(begin // self.length, end // self.length) + self.first_row
                self._block = begin, self._rows.take(rows).reshape(-1)
            low, high = max(start, begin), min(stop, end)
            yield low, self._block[1][low - begin : high - begin]

    def tokens(self, line: Line) -> NDArray[Any]:
        """Return a line's tokens, less those that are in no row."""
        found = [block for _, block in self.blocks(line.offset, line.offset + line.tokens)]
        return np.concatenate(found) if found else np.empty(0, self.manifest.dtype)

    @cached_property
    def _rows(self) -> RowReader:
        return RowReader(self.manifest, self.split, 1)

    @cached_property
    def _groups(self) -> list[_Group]:
        found = []
        for info in self.info.index_files:
            path = self.manifest.folder / info.path
            check_size(path, info.bytes)
            try:
                metadata = pq.read_metadata(path)
                for number in range(metadata.num_row_groups):
                    group = metadata.row_group(number)
                    if group.num_rows:
                        first = group.column(INDEX.get_field_index("offset")).statistics.min
                        found.append(_Group(path, number, first))
            except (pa.ArrowException, OSError, ValueError, AttributeError) as error:
                raise damaged(path, f"{type(error).__name__}: {str(error).strip()[:200]}") from error
        return found


def readers(
    manifest: Manifest, split: str | None = None, source: str | None = None
) -> Iterator[SourceReader]:
    """Iterate over the sources of one split or all, or over one of them by name."""
    for name, info in manifest.splits.items():
        if split in (None, name):
            for number, found in enumerate(info.sources):
                if source in (None, found.source):
                    yield SourceReader(manifest, name, number)


def lines(table: pa.Table) -> Iterator[Line]:
    """Iterate over the lines of a table of the index."""
    for row in table.to_pylist():
        yield Line(**row)


def numbers(table: pa.Table, column: str) -> Int64:
    """Return a column of whole numbers as an array."""
    values: Int64 = table.column(column).to_numpy().astype(np.int64)
    return values


def _read(group: _Group, columns: list[str]) -> pa.Table:
    try:
        with pq.ParquetFile(group.path) as file:
            return file.read_row_group(group.number, columns=columns, use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = f"{type(error).__name__}: {str(error).strip()[:200]}"
        raise damaged(group.path, reason) from error
