from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.corpus.raw import Quarantined, Raw
from codex_ray.corpus.sources import decompress, streams
from tests.unit.corpus.sources.forms import (
    COMPRESSORS,
    FORMS,
    TEXTS,
    account,
    as_arrow_file,
    as_jsonl,
    as_parquet,
    as_tar,
    items,
    limits,
    packed,
    put,
    source,
    texts,
    units_of,
)

ROWS = [{"id": str(number), "text": text} for number, text in enumerate(TEXTS)]


@pytest.mark.parametrize("chunk", [1, 3, 1000, streams.CHUNK])
@pytest.mark.parametrize("form", FORMS)
def test_every_format_in_every_packing_gives_the_same_documents(
    tmp_path: Path, form: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (streams, decompress):
        monkeypatch.setattr(module, "CHUNK", chunk)
    ending, write = FORMS[form]
    for name, data in packed(f"rows{ending}", write(ROWS)).items():
        archive = name.endswith(".zip") or ".tar" in name
        asked = ending[1:] if archive else "auto"
        found = items(source(put(tmp_path / name, data), format=asked))
        assert texts(found) == TEXTS, name


def test_text_in_every_packing_is_the_same_bytes(tmp_path: Path) -> None:
    data = bytes(range(1, 256)) * 20
    for name, packing in packed("note.txt", data).items():
        (item,) = items(source(put(tmp_path / name, packing)))
        assert isinstance(item, Raw) and item.content == data, name
        assert item.name.startswith(name)
        if ".tar" in name:
            assert item.name.startswith(f"{name}/d/note.txt")


@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(
        st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=30), max_size=12
    ),
    unit_bytes=st.integers(1, 200),
    end=st.booleans(),
)
def test_slices_of_json_lines_of_any_size_are_the_whole(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str], unit_bytes: int, end: bool
) -> None:
    data = as_jsonl([{"text": row} for row in rows])
    path = put(tmp_path_factory.getbasetemp() / "slices" / "rows.jsonl", data if end else data[:-1])
    whole = items(source(path))
    assert texts(whole) == rows
    assert items(source(path), unit_bytes=unit_bytes) == whole


@settings(deadline=None, max_examples=60)
@given(
    data=st.lists(st.sampled_from([b"\n", b'{"text": "a"}\n', b"\r\n", b"x", b"\xff", b"{}\n"])).map(
        b"".join
    ),
    unit_bytes=st.integers(1, 20),
    line_bytes=st.integers(1, 20),
)
def test_slices_of_any_bytes_are_the_whole(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, unit_bytes: int, line_bytes: int
) -> None:
    path = put(tmp_path_factory.getbasetemp() / "slices" / "any.jsonl", data)
    bounds = limits(line_bytes=line_bytes)
    whole = items(source(path), bounds)
    assert len(whole) == sum(1 for line in data.split(b"\n") if line.strip() or len(line) > line_bytes)
    assert items(source(path), bounds, unit_bytes=unit_bytes) == whole


def test_slices_of_parquet_are_the_whole(tmp_path: Path) -> None:
    rows = [{"text": f"document {number} " * 9} for number in range(23)]
    path = put(tmp_path / "rows.parquet", as_parquet(rows, row_group_size=3))
    whole = items(source(path))
    assert [item.name for item in whole] == [f"rows.parquet:{number}" for number in range(1, 24)]
    assert len(units_of(source(path), unit_bytes=1)) == 8
    for unit_bytes in (1, 200, 500, 2000):
        assert items(source(path), unit_bytes=unit_bytes) == whole


def test_names_of_records(tmp_path: Path) -> None:
    data = b'{"text": "a"}\n\n{"text": "b"}\n'
    put(tmp_path / "x" / "plain.jsonl", data)
    put(tmp_path / "x" / "packed.jsonl.gz", gzip.compress(data))
    put(tmp_path / "x" / "z.csv", b"text\na\n\nb\n")
    assert list(account(items(source(f"{tmp_path}/**/*")))) == [
        "x/packed.jsonl.gz:1",
        "x/packed.jsonl.gz:3",
        "x/plain.jsonl@0",
        "x/plain.jsonl@15",
        "x/z.csv:1",
        "x/z.csv:2",
    ]


def test_every_bad_record_is_one_item_and_the_others_are_read(tmp_path: Path) -> None:
    lines = [
        (b'{"text": "good"}', "good"),
        (b"[1]", "not JSON: a list in place of an object"),
        (b'{"text": null}', "no text: text is null"),
        (b'{"text": 5}', "no text: text is int, not a string"),
        (b'{"body": "x"}', "no text: none of the columns text, content and code; there are body"),
        (b'{"text": "a\\u0000b"}', "binary: a NUL character at 1"),
        (b'{"text": "\\ud800"}', "lone surrogate: U+D800 at 0"),
        (b'{"text": "\xff"}', "not UTF-8: byte 0xff at 10"),
        (b'{"text": "cut', "not JSON: Unterminated string starting at: line 1 column 10 (char 9)"),
        (b"[" * 100_000, "not JSON: nested too deeply"),
        (b'{"content": "also good"}', "also good"),
        (b'{"text": "' + b"x" * 2**20 + b'"}', f"too large: line of more than {2**20} bytes"),
        (b'{"text": "last"}', "last"),
    ]
    data = b"\n".join(line for line, _ in lines)
    for name, blob in (("r.jsonl", data), ("r.jsonl.zst", COMPRESSORS[".zst"](data)), ("r.json", data)):
        found = account(items(source(put(tmp_path / name, blob))))
        assert list(found.values()) == [told for _, told in lines], name
    assert list(found) == [f"r.json:{number}" for number in range(1, 14)]


def test_json_arrays_go_on_after_wrong_values(tmp_path: Path) -> None:
    data = b'[{"text": "a"}, 7, {"text": wrong}, {"text": "}],{\\""}, {"text": "%s"}, {"text": "b"}]' % (
        b"x" * 200
    )
    found = account(items(source(put(tmp_path / "r.json", data)), limits(line_bytes=100)))
    assert list(found.values()) == [
        "a",
        "not JSON: a int in place of an object",
        "not JSON: Expecting value: line 1 column 10 (char 9)",
        '}],{"',
        "too large: value of more than 100 bytes",
        "b",
    ]
    cut = account(items(source(put(tmp_path / "r.json", data[:-1])), limits(line_bytes=100)))
    assert list(cut.values())[-1] == "damaged: the JSON ends inside a value"
    assert len(cut) == 6


def test_bad_rows_of_tables_are_one_item_each(tmp_path: Path) -> None:
    data = b'id,text\n1,a\n2\n3,"b\nc"\n4,\xff\n5,"bad"quote\n6,nul\0\n7,%s\n8,last\n9,"open' % (b"x" * 300)
    found = account(items(source(put(tmp_path / "t.csv", data)), limits(line_bytes=200)))
    assert list(found.values()) == [
        "a",
        "not CSV: 1 fields where the header has 2",
        "b\nc",
        "not UTF-8: byte 0xff at 0",
        "not CSV: ',' expected after '\"'",
        "binary: a NUL character at 3",
        "too large: record of more than 200 bytes",
        "last",
        "not CSV: unexpected end of data",
    ]
    assert list(found) == [f"t.csv:{number}" for number in range(1, 10)]


@pytest.mark.parametrize(("ending", "write"), [(".parquet", as_parquet), (".arrow", as_arrow_file)])
def test_bad_rows_of_columnar_files_are_one_item_each(
    tmp_path: Path, ending: str, write: Callable[[Any], bytes]
) -> None:
    strings = pa.array([b"good", b"\xff\xfe", None, b"nul\0", b"end"], pa.binary()).view(pa.string())
    table = pa.table({"text": strings})
    stream = io.BytesIO()
    if ending == ".parquet":
        pq.write_table(table, stream)
    else:
        with pa.ipc.new_file(stream, table.schema) as writer:
            writer.write_table(table)
    found = account(items(source(put(tmp_path / f"r{ending}", stream.getvalue()))))
    assert list(found.values()) == [
        "good",
        "not UTF-8: byte 0xff at 0",
        "no text: text is null",
        "binary: a NUL character at 3",
        "end",
    ]
    put(tmp_path / f"r{ending}", write([{"text": number} for number in range(3)]))
    assert list(account(items(source(tmp_path))).values()) == ["no text: text is int, not a string"] * 3
    put(tmp_path / f"r{ending}", write([{"other": "x"}] * 300))
    assert (
        list(account(items(source(tmp_path))).values())
        == ["no text: none of the columns text, content and code; there are other"] * 300
    )
    missing = items(source(tmp_path, column="body"))
    assert len(missing) == 300 and isinstance(missing[0], Quarantined)
    assert missing[0].reason == "no text: none of the wanted columns; there are other"


def test_files_of_one_folder_may_have_different_schemas(tmp_path: Path) -> None:
    put(tmp_path / "a.parquet", as_parquet([{"text": "a"}]))
    put(tmp_path / "b.parquet", as_parquet([{"content": "b", "text2": 1}]))
    put(tmp_path / "c.parquet", as_parquet([{"text": 3}]))
    assert list(account(items(source(tmp_path))).values()) == ["a", "b", "no text: text is int, not a string"]


@pytest.mark.parametrize("line", [10, 2**20 + 1, 5 * 2**20])
def test_one_long_line_is_one_item(tmp_path: Path, line: int) -> None:
    data = b'{"text": "a"}\n' + b"x" * line + b'\n{"text": "b"}\n'
    path = put(tmp_path / "long.jsonl", data)
    found = items(source(path))
    assert len(found) == 3 and isinstance(found[1], Quarantined)
    assert items(source(path), unit_bytes=100_000) == found
    whole = account(items(source(put(tmp_path / "long.txt", data))))
    assert (whole["long.txt"] == data.decode()) == (line < 2**20)
    if line > 2**20:
        assert whole["long.txt"] == f"too large: file of more than {2**20} bytes"


@pytest.mark.parametrize("ending", list(FORMS))
@pytest.mark.parametrize("compression", ["", ".gz", ".zst", ".bz2", ".xz"])
def test_damage_anywhere_ends_in_items(tmp_path: Path, ending: str, compression: str) -> None:
    suffix, write = FORMS[ending]
    whole = COMPRESSORS[compression](write(ROWS))
    chance = random.Random(f"{ending} {compression}")
    path = tmp_path / f"damaged{suffix}{compression}"
    for _ in range(25):
        place = chance.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[place] ^= chance.randrange(1, 256)
        for data in (bytes(flipped), whole[:place]):
            items(source(put(path, data)))


@pytest.mark.parametrize("name", ["a.zip", "stored.zip", "a.tar", "a.tar.gz", "nested.tar"])
def test_damaged_archives_end_in_items(tmp_path: Path, name: str) -> None:
    whole = packed("rows.jsonl", as_jsonl(ROWS))[name]
    chance = random.Random(name)
    for _ in range(60):
        place = chance.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[place] ^= chance.randrange(1, 256)
        for data in (bytes(flipped), whole[:place]):
            items(source(put(tmp_path / name, data)))


def test_what_precedes_damage_is_read(tmp_path: Path) -> None:
    chance = random.Random(0)
    rows = [{"text": f"{number} {chance.random()}"} for number in range(40_000)]
    data = as_jsonl(rows)
    for ending in (".gz", ".zst", ".bz2", ".xz"):
        blob = COMPRESSORS[ending](data)
        found = items(source(put(tmp_path / f"r.jsonl{ending}", blob[: len(blob) * 3 // 4])))
        assert isinstance(found[-1], Quarantined) and "ends too soon" in found[-1].reason
        assert texts(found[:-1]) == [row["text"] for row in rows[: len(found) - 1]]
        assert len(found) > len(rows) // 3, ending
    wrong = bytearray(COMPRESSORS[".gz"](data))
    wrong[-6] ^= 1  # the checksum
    found = items(source(put(tmp_path / "r.jsonl.gz", bytes(wrong))))
    assert isinstance(found[-1], Quarantined) and "incorrect data check" in found[-1].reason
    assert len(found) > len(rows) // 2
    table = bytearray(as_parquet([{"text": row["text"] * 3} for row in rows[:400]], row_group_size=100))
    place = bytes(table).index(b"PAR1", 0) + 4
    table[place : place + 40] = b"\xff" * 40
    found = items(source(put(tmp_path / "r.parquet", bytes(table))))
    assert len(found) == 400
    assert [isinstance(item, Quarantined) for item in found] == [True] * 100 + [False] * 300
    arrow = as_arrow_file(ROWS)
    found = items(source(put(tmp_path / "r.arrow", arrow[: len(arrow) // 2])))
    assert isinstance(found[-1], Quarantined) and len(found) > 1


def test_members_of_one_compressed_file_follow_each_other(tmp_path: Path) -> None:
    for ending in (".gz", ".zst", ".bz2", ".xz"):
        blob = b"".join(COMPRESSORS[ending](as_jsonl([row])) for row in ROWS)
        assert texts(items(source(put(tmp_path / f"r.jsonl{ending}", blob)))) == TEXTS
    padded = COMPRESSORS[".gz"](as_jsonl(ROWS)) + b"\0" * 100
    assert texts(items(source(put(tmp_path / "r.jsonl.gz", padded)))) == TEXTS
    garbage = items(source(put(tmp_path / "r.jsonl.gz", padded + b"more")))
    assert texts(garbage[:-1]) == TEXTS and isinstance(garbage[-1], Quarantined)


def test_empty_files(tmp_path: Path) -> None:
    for name in (
        "a.txt",
        "b.jsonl",
        "c.json",
        "d.csv",
        "e.parquet",
        "f.arrow",
        "g.tar",
        "h.zip",
        "i.jsonl.gz",
    ):
        put(tmp_path / name, b"")
    put(tmp_path / "j.tar", as_tar())
    found = account(items(source(f"{tmp_path}/*")))
    assert found.pop("a.txt") == ""
    assert found.pop("j.tar").startswith("no text: none of its 0 members")
    assert set(found) == {"e.parquet", "f.arrow:1", "g.tar", "h.zip", "i.jsonl.gz:1"}
    assert json.dumps(found).count("damaged: ") == 5
