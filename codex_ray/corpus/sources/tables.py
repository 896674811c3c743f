"""Records of Parquet and Arrow files: a batch of rows in memory at a time, only the columns needed."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pyarrow as pa

from codex_ray.corpus.sources.decompress import FLOOR
from codex_ray.corpus.sources.reasons import UnreadableError, damaged
from codex_ray.corpus.sources.records import Record

BATCH_ROWS = 128
BUFFER_BYTES = 2**20
BATCH_BYTES = 2**30
ARROW_FILE_MAGIC = b"ARROW1\0\0"
# What pyarrow raises on damaged tables, whose lengths may also ask for absurd amounts of memory.
DAMAGE = (pa.ArrowException, OSError, ValueError, LookupError, TypeError, RuntimeError, MemoryError)

Columns = Callable[[Collection[str]], list[str]]


def parquet_records(
    file: Any, columns: Columns, expansion: float, start: int = 0, stop: int | None = None
) -> Iterator[Record]:
    """Read the row groups ``[start, stop)`` of a Parquet file, places by row from 1.

    Of a damaged row group, every row that is not read is one record that cannot be read.
    """
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file, buffer_size=BUFFER_BYTES, pre_buffer=False)
        metadata = table.metadata
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        rows = [group.num_rows for group in groups]
        if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows:
            raise UnreadableError("damaged: the row counts contradict each other")
        names, missing = _wanted(table.schema_arrow, columns)
    except (UnreadableError, *DAMAGE) as error:
        yield f"@{start}" if start else "", damaged(error)
        return
    for index in range(start, len(groups) if stop is None else min(stop, len(groups))):
        first, count = sum(rows[:index]), rows[index]
        done = 0
        try:
            _check_expansion(groups[index], names, expansion)
            if names:
                batches = table.iter_batches(BATCH_ROWS, row_groups=[index], columns=names, use_threads=False)
                for batch in batches:
                    for record in _batch_records(batch.slice(0, count - done)):
                        done += 1
                        yield f":{first + done}", record
            problem = UnreadableError("damaged: fewer rows than its metadata say")
        except UnreadableError as error:
            problem = error
        except DAMAGE as error:
            problem = damaged(error)
        for row in range(done + 1, count + 1):
            yield f":{first + row}", missing or problem


def arrow_records(stream: Any, columns: Columns) -> Iterator[Record]:
    """Read an Arrow IPC file or stream in order, places by row from 1.

    A file is a stream between a mark and an index, which is not needed to read it in order: so it is
    read also where it cannot be sought in, or where its end is missing.
    """
    row = 0
    try:
        head = stream.read(len(ARROW_FILE_MAGIC))
        if not head:
            raise UnreadableError("damaged: an Arrow file without a schema")
        source = _Source(b"" if head == ARROW_FILE_MAGIC else head, stream)
        reader = pa.ipc.open_stream(pa.PythonFile(source, mode="r"))
        names, missing = _wanted(reader.schema, columns)
        for batch in reader:
            problem = missing
            try:
                checked = _checked(batch.select(names))
            except DAMAGE as error:
                problem = problem or damaged(error)
            if problem:
                for _ in range(batch.num_rows):
                    row += 1
                    yield f":{row}", problem
                continue
            for record in _batch_records(checked):
                row += 1
                yield f":{row}", record
    except UnreadableError as error:
        yield f":{row + 1}", error
    except DAMAGE as error:
        yield f":{row + 1}", damaged(error)


def group_sizes(file: Any) -> list[int]:
    """Return the bytes of each row group of a Parquet file; none when it is damaged."""
    import pyarrow.parquet as pq

    try:
        metadata = pq.ParquetFile(file).metadata
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        return [
            sum(group.column(column).total_compressed_size for column in range(group.num_columns))
            for group in groups
        ]
    except (UnreadableError, *DAMAGE):
        return []


def _wanted(schema: Any, columns: Columns) -> tuple[list[str], UnreadableError | None]:
    """Return the columns to read, or why no row of this table has a text."""
    try:
        names = columns(schema.names)
    except UnreadableError as error:
        return [], error
    for name in names:
        if schema.names.count(name) > 1:
            return [], UnreadableError(f"no text: {name} is the name of several columns")
    if not names:
        there = ", ".join(schema.names[:8]) or "none"
        return [], UnreadableError(f"no text: none of the wanted columns; there are {there}")
    return names, None


def _check_expansion(group: Any, names: list[str], expansion: float) -> None:
    """Refuse a row group whose compressed pages say that they are a bomb."""
    for index in range(group.num_columns):
        column = group.column(index)
        if column.path_in_schema.split(".")[0] not in names:
            continue
        limit = max(FLOOR, int(column.total_compressed_size * expansion))
        if column.total_uncompressed_size > limit:
            raise UnreadableError(
                f"expands too far: {column.total_uncompressed_size} bytes from {column.total_compressed_size}"
            )


def _checked(batch: Any) -> Any:
    """Check the buffers of a batch, which an IPC reader takes on trust; strings stay bytes for now."""
    arrays = [_as_bytes(column) for column in batch.columns]
    for array in arrays:
        array.validate(full=True)
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def _as_bytes(array: Any) -> Any:
    """Return a string column as bytes, so that one row that is no UTF-8 does not spoil the others."""
    if pa.types.is_string(array.type):
        return array.view(pa.binary())
    if pa.types.is_large_string(array.type):
        return array.view(pa.large_binary())
    return array


def _batch_records(batch: Any) -> Iterator[dict[str, Any] | UnreadableError]:
    columns = [
        (name, _as_bytes(column)) for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    for row in range(batch.num_rows):
        yield {name: _value(column, row) for name, column in columns}


def _value(column: Any, row: int) -> Any:
    """Return a value; bytes as the text they are, or the reason why they are none."""
    try:
        value = column[row].as_py()
        return value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        return UnreadableError(f"not UTF-8: byte 0x{byte:02x} at {error.start}")
    except DAMAGE as error:
        return damaged(error)


class _Source(io.RawIOBase):
    """The first bytes of a stream, put back before the rest; no single read may be absurdly long."""

    def __init__(self, head: bytes, stream: Any) -> None:
        super().__init__()
        self._head = head
        self._stream = stream

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= BATCH_BYTES:
            raise UnreadableError(f"too large: an Arrow batch of {size} bytes, more than {BATCH_BYTES}")
        head, self._head = self._head[:size], self._head[size:]
        return head + bytes(self._stream.read(size - len(head))) if size > len(head) else head
