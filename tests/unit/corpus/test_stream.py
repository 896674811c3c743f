from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.corpus import ray_stream
from codex_ray.corpus.direct import Share, StepRows
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.ray_stream import Chunk, RayStream, read_chunk
from codex_ray.corpus.stream import open_stream
from codex_ray.errors import CodexRayError, ConfigError
from tests.unit.corpus.corpora import make_corpus, row_ids

ROWS = 53


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_corpus(tmp_path_factory.mktemp("stream") / "corpus", rows=ROWS)


def global_batches(
    corpus: Manifest, world_size: int, first_step: int, steps: int, batch: int
) -> list[list[int]]:
    streams = [
        open_stream(
            corpus.folder,
            "train",
            kind="direct",
            seed=7,
            first_step=first_step,
            steps=steps,
            batch_rows=batch,
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    return [[row for part in parts for row in row_ids(part.tokens)] for parts in zip(*streams, strict=True)]


def test_world_sizes_see_the_same_global_batches(corpus: Manifest) -> None:
    expected = corpus.order("train", 7).rows(0, 20 * 12).reshape(20, 12).tolist()
    for world_size in (1, 2, 3, 4, 12):
        assert global_batches(corpus, world_size, 0, 20, 12) == expected


@settings(max_examples=25, deadline=None)
@given(first=st.integers(0, 60), steps=st.integers(0, 20), world_size=st.sampled_from([1, 2, 4]))
def test_any_start_is_the_middle_of_the_whole(
    corpus: Manifest, first: int, steps: int, world_size: int
) -> None:
    whole = corpus.order("train", 7).rows(0, 100 * 8).reshape(100, 8).tolist()
    assert global_batches(corpus, world_size, first, steps, 8) == whole[first : first + steps]


def test_steps_carry_their_positions(corpus: Manifest) -> None:
    stream = open_stream(
        corpus.folder,
        "train",
        kind="direct",
        seed=7,
        first_step=3,
        steps=2,
        batch_rows=8,
        rank=1,
        world_size=2,
    )
    first, second = stream
    assert (first.step, second.step) == (3, 4)
    assert first.positions.tolist() == [28, 29, 30, 31]
    assert second.positions.tolist() == [36, 37, 38, 39]
    assert first.tokens.shape == (4, 8)
    with pytest.raises(StopIteration):
        next(stream)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"batch_rows": 9}, ConfigError, "a batch of 9 rows cannot be shared evenly by 2 workers"),
        ({"batch_rows": 0}, ConfigError, "a batch of 0 rows"),
        ({"rank": 2}, ConfigError, "rank 2 of 2"),
        ({"kind": "fast"}, ConfigError, "'fast' is unknown; give ray or direct"),
        ({"kind": "ray"}, CodexRayError, "needs a Ray session"),
        ({"split": "test"}, CodexRayError, "no split 'test'"),
        ({"corpus": "nowhere"}, CodexRayError, "does not exist"),
    ],
)
def test_impossible_streams_are_refused(
    corpus: Manifest, change: dict[str, object], error: type[CodexRayError], words: str
) -> None:
    asked = {
        "corpus": corpus.folder,
        "split": "train",
        "kind": "direct",
        "seed": 1,
        "first_step": 0,
        "steps": 1,
        "batch_rows": 8,
        "rank": 0,
        "world_size": 2,
    }
    with pytest.raises(error, match=words):
        open_stream(**(asked | change))  # type: ignore[arg-type]


# The background stream, with its chunks read in the thread instead of by Ray Data.

Tables = Generator[pa.Table, None, None]


class Runs:
    """Reads chunks as the tasks would, and remembers which; ``gate`` holds the first one back."""

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.segments: list[tuple[int, int]] = []
        self._gate = gate

    def __call__(self, chunks: Sequence[Chunk]) -> Tables:
        self.segments.append((chunks[0].first_step, chunks[-1].stop_step))
        for chunk in chunks:
            if self._gate is not None:
                assert self._gate.wait(30)
            yield read_chunk(chunk)


def open_ray(
    corpus: Manifest, run: Callable[[Sequence[Chunk]], Tables], first: int = 0, steps: int = 400
) -> RayStream:
    share = Share(corpus.folder, "train", corpus.fingerprint, 7, 8, 1, 2)
    stream = RayStream(share, corpus, first, first + steps, run=run)
    stream.warm_up()
    return stream


def check_all(corpus: Manifest, found: list[StepRows], first: int, steps: int) -> None:
    order = corpus.order("train", 7)
    assert [rows.step for rows in found] == list(range(first, first + steps))
    for rows in found:
        start = rows.step * 8 + 4
        assert rows.positions.tolist() == list(range(start, start + 4))
        assert row_ids(rows.tokens) == order.rows(start, start + 4).tolist()


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_stream, "CHUNK_BYTES", 5 * 4 * 8 * 2)  # five steps


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("cold_steps", [0, 1, 7, 39, 40, 41, 100, 399, 400])
def test_the_hand_over_loses_and_repeats_nothing(corpus: Manifest, cold_steps: int) -> None:
    gate = threading.Event()
    runs = Runs(gate)
    stream = open_ray(corpus, runs, first=3)
    found = [next(stream) for _ in range(cold_steps)]
    gate.set()
    while not stream._warm and cold_steps < 400:
        time.sleep(0.001)
    found += list(stream)
    check_all(corpus, found, 3, 400)
    stream.close()
    assert not stream._thread.is_alive()
    # What was read here is not run again, beyond the segment that was under way.
    assert all(first >= 3 + cold_steps for first, _ in runs.segments[1:])


@pytest.mark.usefixtures("small_chunks")
def test_rows_that_come_too_late_make_room(corpus: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading here is past the first segment when that arrives whole and the thread waits for room."""
    monkeypatch.setattr(ray_stream, "STALL_SECONDS", 5.0)
    gate = threading.Event()
    stream = open_ray(corpus, Runs(gate))
    found = [next(stream) for _ in range(60)]
    gate.set()
    while len(stream._ready) < 8:
        time.sleep(0.001)
    time.sleep(0.2)
    check_all(corpus, found + list(stream), 0, 400)
    stream.close()


@pytest.mark.usefixtures("small_chunks")
def test_a_slow_reader_holds_the_pipeline_back(corpus: Manifest) -> None:
    runs = Runs()
    stream = open_ray(corpus, runs)
    while not stream._warm:
        time.sleep(0.001)
    time.sleep(0.1)
    assert runs.segments == [(0, 40)]
    assert len(stream._ready) == 8
    check_all(corpus, list(stream), 0, 400)
    assert [first for first, _ in runs.segments] == list(range(0, 400, 40))
    stream.close()


def test_the_second_step_begins_the_pipeline(corpus: Manifest) -> None:
    runs = Runs()
    share = Share(corpus.folder, "train", corpus.fingerprint, 7, 8, 1, 2)
    stream = RayStream(share, corpus, 0, 400, run=runs)
    first = next(stream)
    time.sleep(0.1)
    assert runs.segments == []
    check_all(corpus, [first, *stream], 0, 400)
    assert runs.segments
    stream.close()
    RayStream(share, corpus, 0, 400, run=runs).close()  # which nobody asked for a step


def test_a_short_run_is_one_chunk(corpus: Manifest) -> None:
    runs = Runs()
    stream = open_ray(corpus, runs, first=5, steps=6)
    check_all(corpus, list(stream), 5, 6)
    stream.close()
    assert runs.segments in ([(5, 11)], [])


@pytest.mark.usefixtures("small_chunks")
def test_a_dead_pipeline_raises_its_reason(corpus: Manifest) -> None:
    def broken(chunks: Sequence[Chunk]) -> Tables:
        yield read_chunk(chunks[0])
        raise CodexRayError("shard x is damaged")

    stream = open_ray(corpus, broken)
    while not stream._warm:
        time.sleep(0.001)
    stream._thread.join(10)
    found: list[StepRows] = []
    with pytest.raises(CodexRayError, match=r"stream of rank 1 ended at step 5: shard x is damaged"):
        for rows in stream:
            found.append(rows)
    check_all(corpus, found, 0, 5)  # what came before the failure is used
    stream.close()
    assert not stream._thread.is_alive()


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("chunks_before", [0, 1])
def test_a_silent_pipeline_is_not_waited_for_endlessly(
    corpus: Manifest, monkeypatch: pytest.MonkeyPatch, chunks_before: int
) -> None:
    monkeypatch.setattr(ray_stream, "STALL_SECONDS", 0.3)
    end = threading.Event()

    def silent(chunks: Sequence[Chunk]) -> Tables:
        for chunk in chunks[:chunks_before]:
            yield read_chunk(chunk)
        end.wait(30)

    stream = open_ray(corpus, silent)
    began = time.monotonic()
    with pytest.raises(CodexRayError, match=r"gave no rows for 0.3 s at step"):
        for _ in stream:
            time.sleep(0.005)
    assert time.monotonic() - began < 20
    end.set()
    stream.close()


@pytest.mark.usefixtures("small_chunks")
def test_rows_of_other_positions_are_refused(corpus: Manifest) -> None:
    def shifted(chunks: Sequence[Chunk]) -> Tables:
        for chunk in chunks:
            yield read_chunk(replace(chunk, first_step=chunk.first_step + 1, stop_step=chunk.stop_step + 1))

    stream = open_ray(corpus, shifted)
    while not stream._warm:
        time.sleep(0.001)
    with pytest.raises(CodexRayError, match="step 0 received rows of other positions"):
        next(stream)
    stream.close()


@pytest.mark.usefixtures("small_chunks")
def test_closing_in_the_middle_ends_the_thread(corpus: Manifest) -> None:
    stream = open_ray(corpus, Runs())
    found = [next(stream) for _ in range(17)]
    stream.close()
    check_all(corpus, found, 0, 17)
    assert not stream._thread.is_alive()
    with pytest.raises(StopIteration):
        next(stream)
    stream.close()


def test_a_corpus_prepared_again_is_noticed_by_the_tasks(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path / "corpus")
    share = Share(manifest.folder, "train", "another fingerprint", 7, 8, 0, 1)
    with pytest.raises(CodexRayError, match="was prepared again while it was read"):
        read_chunk(Chunk(share, 0, 1))


def test_chunks_are_rows_in_order(corpus: Manifest) -> None:
    share = Share(corpus.folder, "train", corpus.fingerprint, 7, 8, 1, 2)
    table = read_chunk(Chunk(share, 2, 5))
    assert table.num_rows == 12
    assert table.column("positions").to_pylist() == [20, 21, 22, 23, 28, 29, 30, 31, 36, 37, 38, 39]
    flat = np.frombuffer(b"".join(table.column("tokens").to_pylist()), np.uint16).reshape(12, 8)
    wanted = corpus.order("train", 7).at(np.array(table.column("positions").to_pylist()))
    assert row_ids(flat) == wanted.tolist()
