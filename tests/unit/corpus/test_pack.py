from __future__ import annotations

from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.corpus.pack import Layout, decode_group, dtype_for, pieces, read_pieces, write_shard
from codex_ray.corpus.stages import Entry
from codex_ray.errors import CodexRayError

part_lists = st.lists(st.integers(0, 30), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60)
@given(counts=part_lists, data=st.data(), size=st.integers(1, 20))
def test_pieces_are_the_asked_tokens_of_the_whole_run(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], data: st.DataObject, size: int
) -> None:
    total = sum(counts)
    start = data.draw(st.integers(0, total))
    stop = data.draw(st.integers(start, total))
    folder = tmp_path_factory.mktemp("parts")
    whole = np.arange(total, dtype="<u2")
    edges = np.cumsum([0, *counts])
    paths = {}
    for number, (first, last) in enumerate(pairwise(edges)):
        paths[number] = folder / str(number)
        whole[first:last].tofile(paths[number])
    blocks = [block.tolist() for block in read_pieces(paths, pieces(counts, start, stop), "uint16", size)]
    assert list(chain(*blocks)) == list(range(start, stop))
    assert all(len(block) == size for block in blocks[:-1])


def test_a_part_that_ends_early_is_an_error(tmp_path: Path) -> None:
    np.arange(5, dtype="<u2").tofile(tmp_path / "part")
    with pytest.raises(OSError, match="ends early"):
        list(read_pieces({0: tmp_path / "part"}, pieces([9], 0, 9), "uint16", 4))


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize(("rows", "group"), [(1, 1), (7, 3), (12, 4), (5, 100)])
def test_a_shard_holds_its_rows_in_equal_groups(tmp_path: Path, dtype: str, rows: int, group: int) -> None:
    length = 9
    layout = Layout(length, group, group * 10, dtype)
    tokens = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (rows, length)).astype(dtype)
    groups = [tokens[first : first + group].reshape(-1) for first in range(0, rows, group)]
    sha256 = write_shard(tmp_path / "a", iter(groups), layout, {"split": "train"})
    again = write_shard(tmp_path / "b", iter(groups), layout, {"split": "train"})
    assert sha256 == again
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    file = pq.ParquetFile(tmp_path / "a", page_checksum_verification=True)
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    assert sizes == [len(part) // length for part in groups]
    assert np.array_equal(decode_group(file.read(), length, dtype), tokens)
    assert np.array_equal(decode_group(file.read_row_group(len(groups) - 1), length, dtype)[-1], tokens[-1])


def test_shards_are_full_except_the_last() -> None:
    layout = Layout(8, 4, 12, "uint16")
    assert layout.shards(0) == []
    assert layout.shards(12) == [(0, 12)]
    assert layout.shards(25) == [(0, 12), (12, 12), (24, 1)]


def test_the_narrowest_type_that_holds_the_vocabulary() -> None:
    assert [dtype_for(size) for size in (300, 65_536, 65_537)] == ["uint16", "uint16", "uint32"]


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    full = Path("/dev/full")  # every write to it fails as on a full disk
    layout = Layout(1024, 1024, 1024, "uint32")
    tokens = np.random.default_rng(1).integers(0, 2**32, 1024 * 1024, dtype=np.uint32)
    with (
        pytest.raises(CodexRayError, match="the disk is full while writing"),
        Entry(tmp_path / "entry").making(),
    ):
        write_shard(full, [tokens], layout, {})
