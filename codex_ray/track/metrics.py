"""Per-step metrics: one JSON line per optimizer step, and the same rows as CSV and Parquet.

metrics.jsonl is always written and is the truth. CSV is appended beside it, and made again from
it when a row brings a new column. Parquet cannot be appended to, so it is made from the JSON
lines when the writer is closed or truncated: after a crash it is stale until the run is resumed.
A line counts once its newline is there; a torn last line is dropped. JSON has no NaN, so a
number that is not finite is written as null.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import tempfile
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from codex_ray.errors import CodexRayError
from codex_ray.files import unwritable

if TYPE_CHECKING:
    import pyarrow as pa

Value = int | float | str | None
Row = dict[str, Value]

PARQUET_ROWS = 50_000  # rows turned into Parquet at a time, so that long runs need little memory


class MetricsWriter:
    """Appends metrics to a run folder; one writer at a time (rank 0).

    Opening drops a torn last line and continues after what is there.

    Args:
        folder: the run folder.
        formats: of jsonl, csv and parquet; the JSON lines are written in any case.

    Raises:
        CodexRayError: the folder cannot be written, or the file holds something else than metrics.
    """

    def __init__(self, folder: Path, formats: Sequence[str] = ("jsonl",)) -> None:
        self.path = folder / "metrics.jsonl"
        self._csv_path = folder / "metrics.csv" if "csv" in formats else None
        self._parquet_path = folder / "metrics.parquet" if "parquet" in formats else None
        self._columns: dict[str, None] = {}
        self._lines: IO[str] | None = None
        self._table: IO[str] | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._drop_torn_line()
            self._open()
        except OSError as error:
            raise unwritable(self.path, error) from error

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row; scalars of NumPy and torch are taken as their Python values."""
        if self._lines is None:
            raise CodexRayError(f"{self.path} is closed; open a new MetricsWriter to write more")
        clean = {name: _plain(name, value) for name, value in row.items()}
        try:
            self._lines.write(json.dumps(clean, allow_nan=False, ensure_ascii=False) + "\n")
            if self._csv_path is None:
                return
            if clean.keys() <= self._columns.keys() and self._table is not None:
                csv.DictWriter(self._table, list(self._columns)).writerow(clean)
            else:
                self._columns.update(dict.fromkeys(clean))
                self._remake_csv()
        except OSError as error:
            raise unwritable(self.path, error) from error

    def truncate_after(self, step: int) -> None:
        """Drop every row after optimizer step ``step``, in all formats; what is kept is unchanged."""
        self._close_files()
        try:
            drop_after(self.path, step)
            self._open()
            self._write_parquet()
        except OSError as error:
            raise unwritable(self.path, error) from error

    def close(self) -> None:
        """Finish all formats; further writes are refused."""
        if self._lines is None:
            return
        self._close_files()
        try:
            self._write_parquet()
        except OSError as error:
            raise unwritable(self.path, error) from error

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        self._lines = self.path.open("a", encoding="utf-8", buffering=1)
        if self._csv_path is not None:
            self._columns = _columns(self.path)
            self._remake_csv()

    def _close_files(self) -> None:
        for stream in (self._lines, self._table):
            if stream is not None:
                stream.close()
        self._lines = self._table = None

    def _drop_torn_line(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("r+b") as stream:
            stream.truncate(_end_of_last_line(stream))

    def _remake_csv(self) -> None:
        assert self._csv_path is not None
        if self._table is not None:
            self._table.close()
        with (
            _replacing(self._csv_path) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as stream,
        ):
            if self._columns:
                table = csv.DictWriter(stream, list(self._columns))
                table.writeheader()
                table.writerows(row for _, row in _complete_lines(self.path))
        self._table = self._csv_path.open("a", encoding="utf-8", buffering=1, newline="")

    def _write_parquet(self) -> None:
        if self._parquet_path is None:
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = _schema(self.path)
        with _replacing(self._parquet_path) as temporary, pq.ParquetWriter(temporary, schema) as parquet:
            rows = (row for _, row in _complete_lines(self.path))
            while some := list(itertools.islice(rows, PARQUET_ROWS)):
                columns = {
                    field.name: pa.array([_as(field.type, row.get(field.name)) for row in some], field.type)
                    for field in schema
                }
                parquet.write_table(pa.table(columns, schema=schema))


class MetricsFollower:
    """Reads the rows that a writer, in this or another process, has added since the last look.

    After the file was cut back and continued, the rows that are new since the cut are given,
    and none of those that stayed. Four bytes are remembered per row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checksums = array("I")
        self._last = b""  # the last line given, to see whether the file is still the same
        self._offset = 0  # where the next line starts

    def new_rows(self) -> list[Row]:
        """Return the rows not given before, oldest first; none if the file is not there yet."""
        try:
            stream = self.path.open("rb")
        except FileNotFoundError:
            return []
        with stream:
            start = self._offset - len(self._last)
            stream.seek(start)
            if stream.read(len(self._last)) != self._last:
                self._rewind(stream)
            rows = []
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                rows.append(_parse(line, self.path, len(self._checksums) + 1))
                self._accept(line)
            return rows

    def _accept(self, line: bytes) -> None:
        self._checksums.append(zlib.crc32(line))
        self._last = line
        self._offset += len(line)

    def _rewind(self, stream: IO[bytes]) -> None:
        """Go to the end of what the rewritten file has in common with the lines given."""
        given, self._checksums = self._checksums, array("I")
        self._last, self._offset = b"", 0
        stream.seek(0)
        for line, checksum in zip(stream, given, strict=False):
            if zlib.crc32(line) != checksum:
                break
            self._accept(line)
        stream.seek(self._offset)


def read_metrics(path: Path) -> list[Row]:
    """Return all complete rows, oldest first; none if the file does not exist.

    Raises:
        CodexRayError: a line before the last is damaged.
    """
    return [row for _, row in _complete_lines(path)] if path.exists() else []


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one row to a file of JSON lines, after dropping a torn last line.

    Raises:
        CodexRayError: the file cannot be written.
    """
    try:
        path.touch()
        with path.open("r+b") as stream:
            stream.truncate(_end_of_last_line(stream))
            stream.seek(0, os.SEEK_END)
            clean = {name: _plain(name, value) for name, value in row.items()}
            stream.write(json.dumps(clean, allow_nan=False, ensure_ascii=False).encode() + b"\n")
    except OSError as error:
        raise unwritable(path, error) from error


def drop_after(path: Path, step: int) -> None:
    """Drop the rows after optimizer step ``step`` from a file of JSON lines, if it is there.

    Raises:
        CodexRayError: the file cannot be written, or a line before the last is damaged.
    """
    if not path.exists():
        return
    try:
        with _replacing(path) as temporary, temporary.open("wb") as kept:
            for line, row in _complete_lines(path):
                if _step(row) <= step:
                    kept.write(line)
    except OSError as error:
        raise unwritable(path, error) from error


def read_run(folder: Path) -> list[Row]:
    """Return a run's rows, each with what was measured of its step beside training, if there was anything.

    Raises:
        CodexRayError: a line before the last is damaged.
    """
    later = {row.get("step"): row for row in read_metrics(folder / "validation.jsonl")}
    evaluations: list[dict[str, Any]] = read_metrics(folder / "evaluation.jsonl")
    for line in evaluations:
        found = {f"evaluation/{name}": task["value"] for name, task in line["tasks"].items()}
        later[line["step"]] = later.get(line["step"], {}) | found
    return [later.get(row.get("step"), {}) | row for row in read_metrics(folder / "metrics.jsonl")]


def metrics_at(path: Path, step: int | None) -> Row | None:
    """Return the row of one optimizer step, or of the last one for None; None where there is none.

    Raises:
        CodexRayError: a line before it is damaged.
    """
    found = None
    for _, row in _complete_lines(path) if path.exists() else ():
        if step in (None, row.get("step")):
            found = row
    return found


def _complete_lines(path: Path) -> Iterator[tuple[bytes, Row]]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if line.endswith(b"\n"):
                yield line, _parse(line, path, number)


def _parse(line: bytes, path: Path, number: int) -> Row:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise CodexRayError(
            f"line {number} of {path} is not a JSON object; the file is damaged there, remove that line"
        )
    return row


def _end_of_last_line(stream: IO[bytes], block: int = 1 << 16) -> int:
    end = stream.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - block)
        stream.seek(start)
        found = stream.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _plain(name: str, value: Any) -> Value:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"metric {name!r} must fit 64 bits with a sign, and {value} does not")
        return int(value)
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"metric {name!r} must be a number or text, not {type(value).__name__}")


def _step(row: Row) -> float:
    step = row.get("step")
    return step if isinstance(step, int | float) else -math.inf


def _columns(path: Path) -> dict[str, None]:
    """All columns in order of first appearance."""
    return {name: None for _, row in _complete_lines(path) for name in row}


def _schema(path: Path) -> pa.Schema:
    """One type for each column: int64, float64 where fractions are among its values, or text."""
    import pyarrow as pa

    whole, number, text = pa.int64(), pa.float64(), pa.string()
    types: dict[str, pa.DataType | None] = {}
    for _, row in _complete_lines(path):
        for name, value in row.items():
            known = types.setdefault(name, None)
            if value is None or known == text:
                continue
            if isinstance(value, str):
                types[name] = text
            elif isinstance(value, int) and known != number:
                types[name] = whole
            else:
                types[name] = number
    return pa.schema([(name, number if kind is None else kind) for name, kind in types.items()])


def _as(kind: pa.DataType, value: Value) -> Value:
    import pyarrow as pa

    if value is None:
        return None
    if pa.types.is_string(kind):
        return str(value)
    return float(value) if pa.types.is_floating(kind) else value


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file that takes the place of ``path`` when the block ends well."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
