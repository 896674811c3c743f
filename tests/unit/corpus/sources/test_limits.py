from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from codex_ray.config.corpus import Limits
from codex_ray.corpus.raw import Quarantined, Raw
from codex_ray.corpus.sources import decompress, tables
from codex_ray.corpus.sources.decompress import Allowance
from codex_ray.corpus.sources.read import read_unit
from codex_ray.corpus.sources.reasons import UnreadableError
from codex_ray.corpus.sources.streams import Lines, Pipe
from tests.unit.corpus.sources.forms import as_jsonl, as_tar, as_zip, items, limits, put, source, units_of

FLOOR = 32 * 2**20  # lowered, for the time that the tests take
ZEROS = b"\0" * (40 * 2**20)
PACKERS = {".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress}


def peak_of_reading(path: Path, bounds: Limits, **settings: str) -> tuple[list[Raw | Quarantined], int]:
    given = source(path, **settings)
    (unit,) = units_of(given)
    tracemalloc.start()
    try:
        found = list(read_unit(unit, given, bounds))
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("ending", [".gz", ".zst", ".bz2", ".zip", ".tar.gz"])
def test_bombs_are_one_item_and_take_no_memory(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decompress, "FLOOR", FLOOR)
    if ending == ".zip":
        data = as_zip("rows.jsonl", ZEROS)
    elif ending == ".tar.gz":
        data = gzip.compress(as_tar(("rows.jsonl", ZEROS)))
    else:
        data = PACKERS[ending](ZEROS)
    path = put(tmp_path / f"rows.jsonl{ending}", data)
    found, peak = peak_of_reading(path, limits(), format="jsonl")
    assert len(found) == 1 and isinstance(found[0], Quarantined)
    assert found[0].reason == f"expands too far: more than {FLOOR} bytes from {_compressed(path)}"
    assert peak < 24 * 2**20


def _compressed(path: Path) -> int:
    if path.suffix != ".zip":
        return path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        return archive.infolist()[0].compress_size


def test_one_bomb_in_an_archive_leaves_the_other_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decompress, "FLOOR", 2**20)
    rows = as_jsonl([{"text": "good"}])
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jsonl", rows)
        archive.writestr("bomb.jsonl", b"\0" * 2**21)
        archive.writestr("c.jsonl", rows)
        for number in range(20):  # each within its own allowance, together beyond the archive's
            archive.writestr(f"d{number:02d}.txt", b"\0" * 2**20)
    found = items(source(put(tmp_path / "a.zip", stream.getvalue())))
    told = [(item.name, getattr(item, "reason", "read").partition(":")[0]) for item in found]
    assert told[:3] == [
        ("a.zip/a.jsonl:1", "read"),
        ("a.zip/bomb.jsonl:1", "expands too far"),
        ("a.zip/c.jsonl:1", "read"),
    ]
    assert told[-1][1] == "expands too far" and len(told) < 23


def test_holes_in_a_tar_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompress, "FLOOR", 2**20)
    size = 8 * 2**20
    info = tarfile.TarInfo("rows.jsonl")
    info.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.name": "rows.jsonl",
        "GNU.sparse.size": str(size),
        "GNU.sparse.map": f"{size},0",
    }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    (item,) = items(source(put(tmp_path / "a.tar", stream.getvalue())))
    assert isinstance(item, Quarantined) and item.reason.startswith("expands too far")


def test_parquet_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompress, "FLOOR", 2**23)
    monkeypatch.setattr(tables, "FLOOR", 2**23)
    stream = io.BytesIO()
    table = pa.table({"text": ["x" * 2**17] * 80})
    pq.write_table(table, stream, compression="zstd", use_dictionary=False, data_page_size=2**19)
    found, _ = peak_of_reading(put(tmp_path / "a.parquet", stream.getvalue()), limits(line_bytes=2**21))
    assert len(found) == 80
    assert all(isinstance(item, Quarantined) and "expands too far" in item.reason for item in found)
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="none", use_dictionary=True)  # one string, eighty times
    found, _ = peak_of_reading(
        put(tmp_path / "b.parquet", stream.getvalue()), limits(line_bytes=2**21, expansion=2.0)
    )
    assert isinstance(found[-1], Quarantined) and "expands too far" in found[-1].reason
    assert isinstance(found[0], Raw) and len(found) == 65


def test_xz_that_asks_for_too_much_memory_is_damaged(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 2**30}]
    data = lzma.compress(b"text", filters=filters)
    (item,) = items(source(put(tmp_path / "a.txt.xz", data)))
    assert isinstance(item, Quarantined) and item.reason.startswith("damaged: ")


def test_packed_parquet_is_held_whole_and_so_bounded(tmp_path: Path) -> None:
    stream = io.BytesIO()
    pq.write_table(pa.table({"text": [f"{n}" for n in range(1000)]}), stream)
    put(tmp_path / "a.parquet.gz", gzip.compress(stream.getvalue()))
    assert len(items(source(tmp_path))) == 1000
    (item,) = items(source(tmp_path), limits(file_bytes=2000))
    assert isinstance(item, Quarantined)
    assert item.reason == "too large: Parquet file that is packed up of more than 2000 bytes"


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.jsonl.gz"])
def test_a_very_long_line_takes_bounded_memory(tmp_path: Path, name: str) -> None:
    text = json.dumps({"text": "x" * (30 * 2**20)}).encode()
    data = b"text\n" + text if name == "a.csv" else text
    path = put(tmp_path / name, gzip.compress(data, 1) if name.endswith(".gz") else data)
    found, peak = peak_of_reading(path, limits())
    assert len(found) == 1 and isinstance(found[0], Quarantined)
    assert found[0].reason.startswith("too large: ")
    assert peak < 8 * 2**20


def test_lines_know_their_places_after_long_ones() -> None:
    lines = Lines(iter([b"ab", b"c\n", b"\nxyz", b"0123456789\nend"]), 5)
    assert [(line, lines.offset, lines.number) for line in lines] == [
        (b"abc", 0, 1),
        (b"", 4, 2),
        (None, 5, 3),
        (b"end", 19, 4),
    ]


def test_a_pipe_gives_what_precedes_an_error_first() -> None:
    def chunks():  # type: ignore[no-untyped-def]
        yield b"abc"
        raise UnreadableError("damaged: here")

    pipe = Pipe(chunks())
    assert (pipe.read(2), pipe.read(5), pipe.position) == (b"ab", b"c", 3)
    with pytest.raises(UnreadableError, match="here"):
        pipe.read(1)


def test_what_is_inside_draws_on_the_whole() -> None:
    whole = Allowance(2**20, 100.0)
    inside = Allowance(2**20, 200.0, whole)
    inside.charge(100 * 2**20)
    assert not whole.exceeded
    with pytest.raises(UnreadableError, match=f"more than {100 * 2**20} bytes from {2**20}"):
        inside.charge(1)
