from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from codex_ray.corpus.direct import RowReader
from codex_ray.corpus.index import SourceReader, lines, readers
from codex_ray.corpus.manifest import Manifest
from codex_ray.errors import CodexRayError
from tests.unit.corpus.verbs import small


@pytest.fixture(scope="module", params=small.METHODS)
def recut(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("index")
    whole = small.corpus(folder / "whole", prepare=small.settings(request.param))
    return small.recut(whole, folder / "recut")


@settings(max_examples=60, deadline=None)
@given(places=strategies.tuples(strategies.integers(0, 3200), strategies.integers(0, 3200)))
def test_lines_and_tokens_of_any_place_are_those_of_the_whole(
    recut: Manifest, places: tuple[int, int]
) -> None:
    start, stop = min(places), max(places)
    reader = SourceReader(recut, "train", 1)
    every = [line for table in reader.tables() for line in lines(table)]
    expected = [line for line in every if line.offset < stop and line.offset + line.tokens > start]
    assert list(reader.overlapping(start, stop)) == (expected if start < stop else [])
    rows = np.arange(reader.info.rows) + reader.first_row
    tokens = RowReader(recut, "train", 1).take(rows).reshape(-1)
    found = list(reader.blocks(start, stop))
    joined = np.concatenate([np.empty(0, np.uint16), *(block for _, block in found)])
    np.testing.assert_array_equal(joined, tokens[start:stop])
    assert [first for first, _ in found][:1] == ([start] if start < min(stop, len(tokens)) else [])


def test_readers_are_narrowed_by_split_and_source(recut: Manifest) -> None:
    assert len(list(readers(recut))) == 6
    assert [reader.info.source for reader in readers(recut, "train")] == ["prose", "notes"]
    assert [reader.split for reader in readers(recut, source="notes")] == ["train", "validation", "test"]


def test_a_damaged_index_is_named(recut: Manifest) -> None:
    path = Path(recut.folder / recut.splits["test"].sources[0].index_files[0].path)
    data = path.read_bytes()
    path.write_bytes(data[:-9] + bytes(9))
    with pytest.raises(CodexRayError, match=r"prose-index-00000\.parquet is damaged"):
        list(SourceReader(recut, "test", 0).tables())
    path.write_bytes(data)
