"""Writing one source of a split anew: its rows and its index, as they are or without some documents.

Contiguous rows are cut again from the run of tokens that is left. Rows packed by best fit keep their other
documents in their order, end in padding as before, and go where nothing is left in them.

Memory is a row group of the index and one of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from codex_ray.corpus.index import BEST_FIT, Int64, SourceReader, numbers, packing_method
from codex_ray.corpus.manifest import DocumentsInfo, ShardInfo, SourceRows
from codex_ray.corpus.pack import Layout, identity, write_shard
from codex_ray.corpus.packing import INDEX_DOCUMENTS
from codex_ray.corpus.tokenising import INDEX
from codex_ray.files import sha256_of

Flags = NDArray[np.bool_]
Tokens = NDArray[Any]
Removed = Callable[[pa.Table], Flags]


@dataclass(frozen=True)
class Target:
    """Where a source goes: the folder of the split, its name, and what its shards say they are of."""

    folder: Path
    source: str
    layout: Layout
    content: str
    pad_id: int


@dataclass
class Taken:
    """What was removed from a source: tokens, and of each document its name, SHA-256 and bytes."""

    tokens: int
    documents: list[tuple[str, bytes, int]]

    @property
    def bytes(self) -> int:
        """UTF-8 text of the removed documents."""
        return sum(size for *_, size in self.documents)


def write_source(
    reader: SourceReader, target: Target, removed: Removed, advance: Callable[[float], None]
) -> tuple[SourceRows, Taken]:
    """Write a source without the lines that ``removed`` flags in each table of its index.

    ``advance`` is told of tokens as they are written.

    Returns:
        What was written (its weight is still the old one), and what was taken out.
    """
    packed = packing_method(reader.manifest, reader.info.source) == BEST_FIT
    index = _IndexWriter(target)
    taken = Taken(0, [])
    kept = (_best_fit if packed else _contiguous)(reader, removed, index, taken, target.pad_id)
    shards = list(_shards(_counted(kept, advance), target))
    rows = sum(shard.rows for shard in shards)
    held = rows * reader.length if packed else reader.info.tokens - taken.tokens
    source = SourceRows(
        source=target.source,
        weight=reader.info.weight,
        rows=rows,
        tokens=held,
        unused_tokens=held - rows * reader.length,
        documents=reader.info.documents - len(taken.documents),
        bytes=reader.info.bytes - taken.bytes,
        shards=shards,
        index_files=index.close(),
    )
    return source, taken


def _contiguous(
    reader: SourceReader, removed: Removed, index: _IndexWriter, taken: Taken, _: int
) -> Iterator[Tokens]:
    end = 0
    for table in reader.tables():
        flags = removed(table)
        offsets, lengths = numbers(table, "offset"), numbers(table, "tokens")
        before = taken.tokens + np.cumsum(lengths * flags) - lengths * flags
        index.add(table, offsets - before, ~flags)
        taken.tokens += int(lengths[flags].sum())
        taken.documents += _documents(table.filter(pa.array(flags)))
        start, end = end, int(offsets[-1] + lengths[-1])
        kept = _Runs(offsets[~flags], (offsets + lengths)[~flags])
        for first, block in reader.blocks(start, end):
            yield block[kept.covered(first, len(block))]


def _best_fit(
    reader: SourceReader, removed: Removed, index: _IndexWriter, taken: Taken, pad_id: int
) -> Iterator[Tokens]:
    length, rows_done, seen = reader.length, 0, set[tuple[str, bytes]]()
    for table in _whole_rows(reader):
        flags = removed(table)
        offsets, lengths = numbers(table, "offset"), numbers(table, "tokens")
        taken.tokens += int(lengths[flags].sum())
        for document in _documents(table.filter(pa.array(flags))):
            if document[:2] not in seen:
                taken.documents.append(document)
                seen.add(document[:2])
        moved, left = np.zeros(len(table), np.int64), np.flatnonzero(~flags)
        kept = _Runs(offsets[left], (offsets + lengths)[left])
        start, stop = int(offsets[0]) // length * length, (int(offsets[-1]) // length + 1) * length
        for first, block in reader.blocks(start, stop):
            mask = kept.covered(first, len(block)).reshape(-1, length)
            here = left[kept.inside(first, len(block))]  # no run crosses from one row into the next
            row, column = np.divmod(offsets[here] - first, length)
            filled = mask.any(axis=1)
            new_rows, columns = np.cumsum(filled) - 1, np.cumsum(mask, axis=1) - 1
            moved[here] = (rows_done + new_rows[row]) * length + columns[row, column]
            packed = np.full((int(filled.sum()), length), pad_id, block.dtype)
            at_row, at_column = np.nonzero(mask)
            packed[new_rows[at_row], columns[at_row, at_column]] = block.reshape(-1, length)[mask]
            rows_done += len(packed)
            yield packed.reshape(-1)
        index.add(table, moved, ~flags)


def _whole_rows(reader: SourceReader) -> Iterator[pa.Table]:
    """Iterate over the index so that no row's lines are in two tables."""
    rest: pa.Table | None = None
    for table in reader.tables():
        table = pa.concat_tables([rest, table]) if rest is not None else table
        rows = numbers(table, "offset") // reader.length
        cut = int(np.searchsorted(rows, rows[-1]))
        if cut:
            yield table.slice(0, cut)
        rest = table.slice(cut)
    if rest is not None and len(rest):
        yield rest


@dataclass(frozen=True)
class _Runs:
    """Runs of tokens, sorted, none of which overlaps another."""

    starts: Int64
    ends: Int64

    def inside(self, first: int, count: int) -> slice:
        """Return which runs have tokens of [``first``, ``first + count``)."""
        low = int(np.searchsorted(self.ends, first, side="right"))
        return slice(low, int(np.searchsorted(self.starts, first + count)))

    def covered(self, first: int, count: int) -> Flags:
        """Flag the tokens of [``first``, ``first + count``) that are in a run."""
        here = self.inside(first, count)
        edges = np.zeros(count + 1, np.int64)
        np.add.at(edges, np.clip(self.starts[here] - first, 0, count), 1)
        np.add.at(edges, np.clip(self.ends[here] - first, 0, count), -1)
        return np.cumsum(edges[:-1]) > 0


def _documents(table: pa.Table) -> list[tuple[str, bytes, int]]:
    columns = (table.column(name).to_pylist() for name in ("name", "sha256", "bytes"))
    return list(zip(*columns, strict=True))


def _counted(tokens: Iterable[Tokens], advance: Callable[[float], None]) -> Iterator[Tokens]:
    for block in tokens:
        yield block
        advance(len(block))


def _shards(tokens: Iterable[Tokens], target: Target) -> Iterator[ShardInfo]:
    layout = target.layout
    groups = _whole(tokens, layout)
    for number, first in enumerate(groups):
        rows = 0

        def counted(shard: Iterable[Tokens]) -> Iterator[Tokens]:
            nonlocal rows
            for group in shard:
                rows += len(group) // layout.sequence_length
                yield group

        path = target.folder / f"{target.source}-shard-{number:05d}.parquet"
        rest = islice(groups, layout.rows_per_shard // layout.row_group_rows - 1)
        named = identity(target.content, target.folder.name, target.source, number)
        sha256 = write_shard(path, counted(chain([first], rest)), layout, named)
        yield ShardInfo(_below(path), rows, rows * layout.sequence_length, path.stat().st_size, sha256)


def _whole(tokens: Iterable[Tokens], layout: Layout) -> Iterator[Tokens]:
    """Cut a run of tokens into row groups; what is left at its end is whole rows, the rest is in none."""
    size, held, count = layout.row_group_rows * layout.sequence_length, list[Tokens](), 0
    for block in tokens:
        held.append(block)
        count += len(block)
        if count >= size:
            run = np.concatenate(held)
            whole = len(run) // size * size
            yield from (run[start : start + size] for start in range(0, whole, size))
            held, count = [run[whole:].copy()], len(run) - whole
    rows = count // layout.sequence_length
    if rows:
        yield np.concatenate(held)[: rows * layout.sequence_length]


class _IndexWriter:
    """Writes the index of a source, in files of bounded size."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._writer: pq.ParquetWriter | None = None
        self._path = Path()
        self._count = 0
        self._files: list[DocumentsInfo] = []

    def add(self, table: pa.Table, offsets: Int64, kept: Flags) -> None:
        """Write the lines of a table that are kept, with their new offsets."""
        place = INDEX.get_field_index("offset")
        table = table.set_column(place, INDEX.field(place), pa.array(offsets)).filter(pa.array(kept))
        if not len(table):
            return
        if self._writer is not None and self._count + len(table) > INDEX_DOCUMENTS:
            self._finish()
        if self._writer is None:
            name = f"{self._target.source}-index-{len(self._files):05d}.parquet"
            self._path = self._target.folder / name
            self._writer = pq.ParquetWriter(self._path, INDEX, compression="zstd")
        self._writer.write_table(table.cast(INDEX))
        self._count += len(table)

    def close(self) -> list[DocumentsInfo]:
        """Finish; returns the files."""
        self._finish()
        return self._files

    def _finish(self) -> None:
        if self._writer is not None:
            self._writer.close()
            size = self._path.stat().st_size
            self._files.append(DocumentsInfo(_below(self._path), self._count, size, sha256_of(self._path)))
        self._writer, self._count = None, 0


def _below(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
