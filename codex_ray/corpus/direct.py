"""Reading rows straight from the shards, in any order, with what was just read kept in memory.

A shard is checked when it is opened: its size against the manifest, its identity against the corpus
(a shard of another corpus, split or place is refused), and the checksum of every page that is read.
So a cut, swapped or bit-flipped shard is named, and the cost follows what is read: hashing whole
shards instead would read all of each for the one row group that is wanted of it.
"""

from __future__ import annotations

import json
import zlib
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from codex_ray.corpus.manifest import REMEDY, Manifest, check_size, damaged
from codex_ray.corpus.pack import METADATA, decode_group, identity
from codex_ray.errors import CodexRayError

PLANNED_ROWS = 1024  # of one stream, whose places in the corpus are found together


class RowReader:
    """Rows of one split by id, through a least-recently-used cache of decoded row groups per source.

    Args:
        manifest: a loaded manifest.
        split: name of a split with rows.
        cached_groups: row groups kept decoded, of each source (one number is for every source); an
            order's windows make each group be read once.
    """

    def __init__(self, manifest: Manifest, split: str, cached_groups: int | Sequence[int]) -> None:
        self._manifest = manifest
        self._name = split
        self._split = info = manifest.split(split)
        limits = [cached_groups] * len(info.sources) if isinstance(cached_groups, int) else cached_groups
        self._limits = [max(1, limit) for limit in limits]
        self._groups: list[OrderedDict[int, NDArray[Any]]] = [OrderedDict() for _ in info.sources]
        self._dtype = np.dtype(manifest.dtype)
        self._shards = [
            (number, source.source, place, shard)
            for number, source in enumerate(info.sources)
            for place, shard in enumerate(source.shards)
        ]
        self._ends = np.cumsum([shard.rows for *_, shard in self._shards])
        self._groups_per_shard = info.rows_per_shard // info.row_group_rows

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return the tokens of row ids, [rows, sequence_length], in the manifest's dtype.

        Raises:
            CodexRayError: a shard is missing, cut short, damaged or of another corpus.
        """
        result = np.empty((len(rows), self._manifest.sequence_length), dtype=self._dtype)
        shard_of = np.searchsorted(self._ends, rows, side="right")
        before = np.concatenate([[0], self._ends])[shard_of]
        within, inner = np.divmod(rows - before, self._split.row_group_rows)
        group_of = shard_of * self._groups_per_shard + within
        by_group = np.argsort(group_of, kind="stable")
        groups, starts = np.unique(group_of[by_group], return_index=True)
        for group, members in zip(groups, np.split(by_group, starts[1:]), strict=True):
            result[members] = self._group(int(group))[inner[members]]
        return result

    def _group(self, group: int) -> NDArray[Any]:
        index, within = divmod(group, self._groups_per_shard)
        source = self._shards[index][0]
        held = self._groups[source]
        if group in held:
            held.move_to_end(group)
            return held[group]
        while len(held) >= self._limits[source]:
            held.popitem(last=False)
        held[group] = self._read(index, within)
        return held[group]

    def _read(self, index: int, within: int) -> NDArray[Any]:
        _, source, number, info = self._shards[index]
        path = self._manifest.folder / info.path
        check_size(path, info.bytes)
        try:
            with pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
                self._check_identity(path, file.schema_arrow.metadata, source, number)
                tokens = decode_group(
                    file.read_row_group(within, use_threads=False),
                    self._manifest.sequence_length,
                    self._manifest.dtype,
                )
        # A damaged footer surfaces as whatever the decoder stumbles over; all of it is one fact.
        except (pa.ArrowException, OSError, ValueError, LookupError, AttributeError) as error:
            raise damaged(path, f"{type(error).__name__}: {str(error).strip()[:200]}") from error
        group = self._split.row_group_rows
        expected = min(group, info.rows - within * group)
        if len(tokens) != expected:
            raise damaged(path, f"row group {within} has {len(tokens)} rows instead of {expected}")
        return tokens

    def _check_identity(
        self, path: Path, metadata: dict[bytes, bytes] | None, source: str, number: int
    ) -> None:
        found = json.loads((metadata or {}).get(METADATA, b"null"))
        expected = identity(self._manifest.content, self._name, source, number)
        if found != expected:
            raise CodexRayError(
                f"{path} is not shard {number} of source {source!r} in the {self._name} split of this corpus "
                f"(it is of another corpus or place); {REMEDY}"
            )


@dataclass(frozen=True)
class Share:
    """One rank's share of the global batches of a run over a split.

    Optimizer step s is the positions [s * batch_rows, (s+1) * batch_rows) of the order, ``shift`` further on;
    rank r has the r-th contiguous share of them.
    """

    corpus: Path
    split: str
    fingerprint: str
    seed: int
    batch_rows: int
    rank: int
    world_size: int
    shift: int = 0

    @property
    def rows(self) -> int:
        """Rows of this rank in one step."""
        return self.batch_rows // self.world_size

    def positions(self, first_step: int, stop_step: int) -> NDArray[np.int64]:
        """Return the global positions of this rank's rows in steps [first_step, stop_step), flat."""
        starts = np.arange(first_step, stop_step, dtype=np.int64) * self.batch_rows
        starts += self.shift + self.rank * self.rows
        positions: NDArray[np.int64] = (starts[:, None] + np.arange(self.rows, dtype=np.int64)).reshape(-1)
        return positions


@dataclass(frozen=True)
class StepRows:
    """This rank's rows of one optimizer step.

    ``positions`` are places in the global order, int64 [rows]; ``tokens`` are uint16 or uint32,
    [rows, sequence_length], read-only or not.
    """

    step: int
    positions: NDArray[np.int64]
    tokens: NDArray[Any]


def digest(rows: StepRows) -> int:
    """Checksum of rows and their positions; sums over ranks stay exact in a float64."""
    return sum(
        zlib.crc32(row.astype("<u4").tobytes(), int(position) & 0xFFFFFFFF)
        for position, row in zip(rows.positions, rows.tokens, strict=True)
    )


class OrderedReader:
    """Tokens by global position: the order and the row reader together."""

    def __init__(self, manifest: Manifest, split: str, seed: int) -> None:
        self.order = manifest.order(split, seed)
        self._reader = RowReader(manifest, split, self.order.windows)

    def take(self, positions: NDArray[np.int64]) -> NDArray[Any]:
        """Return the tokens at global positions, [len(positions), sequence_length]."""
        return self.take_rows(self.order.at(positions))

    def take_rows(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return the tokens of row ids that the order gave, [len(rows), sequence_length]."""
        return self._reader.take(rows)


class DirectStream(Iterator[StepRows]):
    """Steps read in this process, one at a time; the stream of ``kind=direct``."""

    def __init__(self, share: Share, reader: OrderedReader, first_step: int, stop_step: int) -> None:
        self._share = share
        self._reader: OrderedReader | None = reader
        self._next, self._stop = first_step, stop_step
        self._planned: deque[tuple[NDArray[np.int64], NDArray[np.int64]]] = deque()

    def __next__(self) -> StepRows:
        if self._reader is None or self._next >= self._stop:
            raise StopIteration
        if not self._planned:
            self._plan(self._reader)
        positions, row_ids = self._planned[0]
        rows = StepRows(self._next, positions, self._reader.take_rows(row_ids))
        self._planned.popleft()
        self._next += 1
        return rows

    def _plan(self, reader: OrderedReader) -> None:
        """Find the rows of many steps at a time: the order's arithmetic costs as much for one as for many."""
        steps = max(1, PLANNED_ROWS // self._share.rows)
        positions = self._share.positions(self._next, min(self._next + steps, self._stop))
        rows = reader.order.at(positions)
        size = self._share.rows
        self._planned.extend(
            (positions[first : first + size], rows[first : first + size])
            for first in range(0, len(rows), size)
        )

    def close(self) -> None:
        """Let go of what was read."""
        self._reader = None
