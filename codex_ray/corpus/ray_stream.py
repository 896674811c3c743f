"""Rows of one rank through Ray Data, prefetched in the background.

The order is arithmetic, so a pipeline can start anywhere: the run is cut into chunks of steps (about
1 MiB of this rank's tokens each), a few chunks are a segment, and a segment is one short Ray Data
execution over chunk descriptions. Starting costs the same in a corpus of any size, a segment ends by
itself soon after, and between segments nothing runs, which matters where training has the same cores.

The first execution waits seconds for its processes to start, so it begins when the second step is asked
for: training's own start has the cores until then. Until its first rows arrive, steps are read in this
process, by the same arithmetic; from then on only Ray Data's rows are used. Chunks carry
their positions, each is checked against the step it is used for, so no row is lost or repeated.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codex_ray.corpus.direct import DirectStream, OrderedReader, Share, StepRows
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.pack import decode_group
from codex_ray.errors import CodexRayError

CHUNK_BYTES = 2**20
SEGMENT_CHUNKS = 8  # the next segment starts when half of this is left: at most 12 chunks are held
TASK_CPUS = 0.25  # of a logical CPU; the preflight counts this much per worker
STALL_SECONDS = 180.0  # longest wait for rows, cold start included
CLOSE_SECONDS = 15.0

Runner = Callable[[Sequence["Chunk"]], Generator[pa.Table, None, None]]


@dataclass(frozen=True)
class Chunk:
    """Steps [first_step, stop_step) of a share: what one task reads."""

    share: Share
    first_step: int
    stop_step: int


@dataclass(frozen=True)
class _Rows:
    first_step: int
    stop_step: int
    positions: NDArray[np.int64]
    tokens: NDArray[Any]


class RayStream(Iterator[StepRows]):
    """Steps through Ray Data; the stream of ``kind=ray``. Needs a Ray session in this process.

    Raises (from ``next``):
        CodexRayError: the pipeline failed, or gave nothing for ``STALL_SECONDS``.
    """

    def __init__(
        self,
        share: Share,
        manifest: Manifest,
        first_step: int,
        stop_step: int,
        run: Runner | None = None,
    ) -> None:
        self._share = share
        self._manifest = manifest
        self._first, self._next, self._stop = first_step, first_step, stop_step
        self._run = run or _run_chunks
        row_bytes = manifest.sequence_length * np.dtype(manifest.dtype).itemsize
        self._chunk_steps = max(1, CHUNK_BYTES // (row_bytes * share.rows))
        reader = OrderedReader(manifest, share.split, share.seed)
        self._direct: DirectStream | None = DirectStream(share, reader, first_step, stop_step)
        self._ready: deque[_Rows] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._warm = self._closed = False
        self._opened = math.inf
        self._thread = threading.Thread(target=self._produce, name=f"stream-rank{share.rank}", daemon=True)

    def __next__(self) -> StepRows:
        if self._closed or self._next >= self._stop:
            raise StopIteration
        if self._next > self._first:
            self.warm_up()
        with self._changed:
            rows = self._cold_step() or self._warm_step()
            self._next += 1
            self._changed.notify_all()
        return rows

    def warm_up(self) -> None:
        """Begin Ray Data's part, where it has not begun; the second step does."""
        if self._thread.ident is None:
            self._opened = time.monotonic()
            self._thread.start()

    def close(self) -> None:
        """Stop the pipeline, end the thread and let go of what was read."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._direct = None
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_SECONDS)

    def _cold_step(self) -> StepRows | None:
        """Read the next step in this process if Ray Data has not delivered anything yet."""
        if self._direct is None or self._warm:
            self._direct = None
            return None
        self._raise_failure()
        if time.monotonic() - self._opened > STALL_SECONDS:
            raise self._stalled()
        return next(self._direct)

    def _warm_step(self) -> StepRows:
        """Take the next step from Ray Data's rows, waiting for them if need be."""
        deadline = time.monotonic() + STALL_SECONDS
        while True:
            while self._ready and self._ready[0].stop_step <= self._next:
                self._ready.popleft()
                self._changed.notify_all()  # the thread may be waiting for room
            if self._ready:
                return self._slice(self._ready[0])
            self._raise_failure()  # only now: what arrived before it is sound
            if not self._changed.wait(timeout=max(0.0, deadline - time.monotonic())):
                raise self._stalled()

    def _slice(self, chunk: _Rows) -> StepRows:
        first = (self._next - chunk.first_step) * self._share.rows
        span = slice(first, first + self._share.rows)
        positions = self._share.positions(self._next, self._next + 1)
        if not np.array_equal(chunk.positions[span], positions):
            raise CodexRayError(
                f"step {self._next} received rows of other positions; please report this defect"
            )
        return StepRows(self._next, positions, chunk.tokens[span])

    def _produce(self) -> None:
        """Run segments one after another, each when there is room for it (the background thread)."""
        planned = self._next
        try:
            while (segment := self._wait_for_room(planned)) is not None:
                with closing(self._run(segment)) as tables:
                    for chunk, table in zip(segment, tables, strict=True):
                        rows = self._decode(chunk, table)
                        with self._changed:
                            if not self._closed:  # else drain: Ray Data leaks a thread otherwise
                                self._warm = True
                                self._ready.append(rows)
                                self._changed.notify_all()
                planned = segment[-1].stop_step
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _wait_for_room(self, planned: int) -> list[Chunk] | None:
        """Return the next segment's chunks once half a segment or less is held; None at the end."""
        with self._changed:
            # Ends with rows let go, a step taken or close(), all of which notify.
            while not self._closed and len(self._ready) > SEGMENT_CHUNKS // 2:
                self._changed.wait()
            first = max(planned, self._next)
            if self._closed or first >= self._stop:
                return None
        size = self._chunk_steps
        starts = range(first, min(first + SEGMENT_CHUNKS * size, self._stop), size)
        return [Chunk(self._share, start, min(start + size, self._stop)) for start in starts]

    def _decode(self, chunk: Chunk, table: pa.Table) -> _Rows:
        tokens = decode_group(table, self._manifest.sequence_length, self._manifest.dtype)
        positions = table.column("positions").combine_chunks().to_numpy()
        return _Rows(chunk.first_step, chunk.stop_step, positions, tokens)

    def _raise_failure(self) -> None:
        if self._error is not None:
            reason = str(self._error).strip() or type(self._error).__name__
            raise CodexRayError(
                f"the Ray Data stream of rank {self._share.rank} ended at step {self._next}: {reason}"
            ) from self._error

    def _stalled(self) -> CodexRayError:
        return CodexRayError(
            f"the Ray Data stream of rank {self._share.rank} gave no rows for {STALL_SECONDS:g} s at step "
            f"{self._next}; the cluster may have no free CPU for it: raise cluster.logical_cpus, or use "
            "stream=direct"
        )


def read_chunk(chunk: Chunk) -> pa.Table:
    """Read one chunk: columns ``positions`` (int64) and ``tokens`` (fixed-length binary), a row per row."""
    share = chunk.share
    reader = _reader(share.corpus, share.split, share.seed, share.fingerprint)
    positions = share.positions(chunk.first_step, chunk.stop_step)
    tokens = reader.take(positions)
    column = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(tokens.shape[1] * tokens.itemsize), len(tokens), [None, pa.py_buffer(tokens)]
    )
    return pa.table({"positions": pa.array(positions), "tokens": column})


@lru_cache(maxsize=2)
def _reader(corpus: Path, split: str, seed: int, fingerprint: str) -> OrderedReader:
    """Keep a task process's reader, with the window it has decoded, from one chunk to the next."""
    manifest = Manifest.load(corpus)
    if manifest.fingerprint != fingerprint:
        raise CodexRayError(f"corpus {corpus} was prepared again while it was read; start the run again")
    return OrderedReader(manifest, split, seed)


def _run_chunks(chunks: Sequence[Chunk]) -> Generator[pa.Table, None, None]:
    from codex_ray.corpus.ray_data import run_tasks

    return run_tasks(
        read_chunk, chunks, num_cpus=TASK_CPUS, concurrency=1, ordered=True, stall_seconds=STALL_SECONDS
    )
