from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from codex_ray.corpus.sources.json_values import json_values
from codex_ray.corpus.sources.reasons import UnreadableError
from codex_ray.corpus.sources.records import Record, csv_records, json_file, json_lines, parse_object
from codex_ray.corpus.sources.streams import Lines

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.lists(st.dictionaries(st.text(max_size=6), VALUES, max_size=4), max_size=5)
CUT = st.integers(1, 40)


def in_chunks(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def read(records: Iterator[Record]) -> list[Any]:
    return [record for _, record in records]


@given(OBJECTS, CUT, st.sampled_from([None, 1]), st.booleans(), st.booleans())
def test_json_is_cut_into_its_values_wherever_chunks_end(
    objects: list[Any], size: int, indent: int | None, escaped: bool, array: bool
) -> None:
    def dump(value: Any) -> str:
        return json.dumps(value, indent=indent, ensure_ascii=escaped)

    text = dump(objects) if array else "\n".join(dump(value) for value in objects)
    data = text.encode()
    values = [json.loads(value or b"") for value in json_values(in_chunks(data, size), 10**6)]
    assert values == objects
    assume(array or indent is None or not objects or objects[0])  # "{}" would say: an object per line
    assert read(json_file(in_chunks(data, size), 10**6)) == objects


@given(
    st.binary(max_size=60) | st.text('[]{},:"\\\\ 1a\n', max_size=60).map(str.encode), CUT, st.integers(1, 30)
)
def test_no_bytes_break_the_readers_and_chunks_do_not_matter(data: bytes, size: int, longest: int) -> None:
    for reader in (json_file, json_lines, lambda source, most: csv_records(source, most, ",")):
        told = [(place, str(record)) for place, record in reader(in_chunks(data, size), longest)]
        assert told == [(place, str(record)) for place, record in reader(iter([data]), longest)]
        assert len({place for place, _ in told}) == len(told)


@given(st.binary(max_size=80), CUT, st.integers(0, 12))
def test_lines_are_what_split_gives(data: bytes, size: int, longest: int) -> None:
    data = data.replace(b"e", b"\n")
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    told = list(Lines(in_chunks(data, size), longest))
    assert told == [line if len(line) <= longest else None for line in lines]


CELLS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)


@given(
    st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6),
    CUT,
    st.sampled_from([",", "\t"]),
    st.booleans(),
)
def test_tables_come_back(rows: list[tuple[str, str]], size: int, delimiter: str, mark: bool) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b"), *rows])
    data = stream.getvalue().encode("utf-8-sig" if mark else "utf-8")
    assert read(csv_records(in_chunks(data, size), 10**6, delimiter)) == [{"a": a, "b": b} for a, b in rows]


@pytest.mark.parametrize("data", [b"[1, 2", b'{"a": 1', b'["abc', b"[[1], [2]", b'{"a": "\\'])
def test_json_that_ends_too_soon_says_so(data: bytes) -> None:
    with pytest.raises(UnreadableError, match="damaged: the JSON ends inside a value"):
        list(json_values(iter([data]), 100))


def test_what_is_no_object_says_what_it_is() -> None:
    huge = b'{"text": 1' + b"0" * 5000 + b"}"
    assert str(parse_object(huge)).startswith("not JSON: Exceeds the limit")
    assert str(parse_object(b"null")) == "not JSON: a NoneType in place of an object"
