"""Rows of tokens in Parquet shards, and the arithmetic that places every token before any is written.

A document is ``<s> tokens </s>``. The documents of a split, in order, form one long run of tokens;
row i holds tokens [i*L, (i+1)*L) of it, and shard k holds rows [k*R, (k+1)*R). So a shard's content
follows from token counts alone, and shards can be written in any order by any number of tasks.

A shard has one column, ``tokens``: a fixed-length binary value per row, little-endian uint16 or uint32,
zstd-compressed, in row groups of equal size with a checksum on every page. Beside lists or flat
integers this is the smallest form Parquet has for them and reads at 360 M tokens/s on one core (lists:
180-285 M); the checksum is verified on each read and costs a fifth of that. Each shard's metadata
names its corpus, split, source and number.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from codex_ray.files import sha256_of

METADATA = b"codex_ray"


@dataclass(frozen=True)
class Layout:
    """How rows lie in shards; the same for every split of a corpus."""

    sequence_length: int
    row_group_rows: int
    rows_per_shard: int
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.sequence_length * np.dtype(self.dtype).itemsize

    def shards(self, rows: int) -> list[tuple[int, int]]:
        """Return the first row and the number of rows of every shard."""
        firsts = range(0, rows, self.rows_per_shard)
        return [(first, min(self.rows_per_shard, rows - first)) for first in firsts]


@dataclass(frozen=True)
class Piece:
    """``count`` tokens of part ``part``, from its token ``offset`` on."""

    part: int
    offset: int
    count: int


def dtype_for(vocabulary_size: int) -> str:
    """Return the narrowest token type that holds every id."""
    return "uint16" if vocabulary_size <= 2**16 else "uint32"


def pieces(tokens_per_part: Sequence[int], start: int, stop: int) -> list[Piece]:
    """Say where tokens [start, stop) of the whole run lie, given how many each part holds."""
    ends = list(accumulate(tokens_per_part))
    found = []
    part = bisect_right(ends, start)
    while start < stop:
        begin = ends[part] - tokens_per_part[part]
        count = min(stop, ends[part]) - start
        if count:
            found.append(Piece(part, start - begin, count))
        start += count
        part += 1
    return found


def read_pieces(
    paths: Mapping[int, Path], found: Sequence[Piece], dtype: str, size: int
) -> Iterator[NDArray[Any]]:
    """Read pieces from part files as arrays of ``size`` tokens; the last may be shorter."""
    width = np.dtype(dtype).itemsize
    block, filled = np.empty(size, dtype=_stored(dtype)), 0
    for piece in found:
        offset, left = piece.offset, piece.count
        while left:
            count = min(left, size - filled)
            data = np.fromfile(paths[piece.part], _stored(dtype), count, offset=offset * width)
            if len(data) != count:
                raise OSError(f"{paths[piece.part]} ends early")
            block[filled : filled + count] = data
            offset, left, filled = offset + count, left - count, filled + count
            if filled == size:
                yield block
                block, filled = np.empty(size, dtype=_stored(dtype)), 0
    if filled:
        yield block[:filled]


def write_shard(path: Path, groups: Iterable[NDArray[Any]], layout: Layout, identity: dict[str, Any]) -> str:
    """Write one shard from row groups of tokens (flat, whole rows), durably; returns its SHA-256.

    ``identity`` is stored in the file and checked by readers. Memory is one row group.
    """
    kind = pa.binary(layout.row_bytes)
    schema = pa.schema([pa.field("tokens", kind, nullable=False)], metadata={METADATA: json.dumps(identity)})
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    ) as writer:
        for tokens in groups:
            rows = len(tokens) // layout.sequence_length
            column = pa.FixedSizeBinaryArray.from_buffers(kind, rows, [None, pa.py_buffer(tokens)])
            writer.write_table(pa.Table.from_arrays([column], schema=schema), row_group_size=rows)
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    return sha256_of(path)


def identity(content: str, split: str, source: str, shard: int) -> dict[str, Any]:
    """What a shard says of itself, so that one of another corpus or place is recognised.

    ``shard`` counts from zero in each source of each split.
    """
    return {"content": content, "split": split, "source": source, "shard": shard}


def decode_group(table: pa.Table, sequence_length: int, dtype: str) -> NDArray[Any]:
    """Return the rows of a table of shard rows, without a copy where it is one chunk: [rows, sequence]."""
    column = table.column("tokens").combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    width = np.dtype(dtype).itemsize * sequence_length
    flat = np.frombuffer(
        column.buffers()[1], _stored(dtype), count=len(column) * sequence_length, offset=column.offset * width
    )
    return flat.reshape(len(column), sequence_length)


def _stored(dtype: str) -> np.dtype[Any]:
    return np.dtype(dtype).newbyteorder("<")
