"""The same documents in every form that a source may have, written by the tests themselves."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from codex_ray.config.corpus import Limits, Source
from codex_ray.corpus.raw import Quarantined, Raw
from codex_ray.corpus.sources.read import read_unit
from codex_ray.corpus.sources.reasons import KINDS
from codex_ray.corpus.sources.units import Unit, find_units

SUFFIXES = (".txt", ".py")
TEXTS = ["one\ntwo\n", 'say "hi", all', "naïve 日本\r\nend", "x" * 3000, "tab\there"]


def source(path: Any, **settings: Any) -> Source:
    base: dict[str, Any] = {"weight": None, "format": "auto", "column": None, "template": None}
    base |= {"messages": None, "chat_template": None, "version": None, "licence": None}
    return Source(path=str(path), **(base | settings))


def limits(**settings: Any) -> Limits:
    return Limits(**({"line_bytes": 2**20, "file_bytes": 2**20, "expansion": 200.0} | settings))


def units_of(given: Source, unit_bytes: int = 2**30, suffixes: Sequence[str] = SUFFIXES) -> list[Unit]:
    return find_units("s", given, suffixes, unit_bytes=unit_bytes)


def items(given: Source, bounds: Limits | None = None, unit_bytes: int = 2**30) -> list[Raw | Quarantined]:
    """Read a whole source; the reasons are of known kinds and the names unique, whatever it holds."""
    bounds = bounds or limits()
    found = [item for unit in units_of(given, unit_bytes) for item in read_unit(unit, given, bounds)]
    names = [item.name for item in found]
    assert len(set(names)) == len(names)
    for item in found:
        if isinstance(item, Quarantined):
            kind, colon, detail = item.reason.partition(": ")
            assert kind in KINDS and colon and detail and "\n" not in detail
    return found


def texts(found: list[Raw | Quarantined]) -> list[str]:
    """The texts, where nothing was set aside."""
    assert [item for item in found if isinstance(item, Quarantined)] == []
    return [
        item.content if isinstance(item.content, str) else item.content.decode()
        for item in found
        if isinstance(item, Raw)
    ]


def account(found: list[Raw | Quarantined]) -> dict[str, str]:
    """Each item's name, with its text or its reason."""
    told = {}
    for item in found:
        if isinstance(item, Quarantined):
            told[item.name] = item.reason
        else:
            told[item.name] = item.content if isinstance(item.content, str) else item.content.decode()
    return told


def put(path: Path, data: bytes = b"some text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def as_jsonl(rows: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def as_table(delimiter: str) -> Callable[[Sequence[dict[str, Any]]], bytes]:
    def write(rows: Sequence[dict[str, Any]]) -> bytes:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
        return stream.getvalue().encode()

    return write


def as_parquet(rows: Sequence[dict[str, Any]], row_group_size: int = 2) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), stream, row_group_size=row_group_size)
    return stream.getvalue()


def as_arrow_file(rows: Sequence[dict[str, Any]]) -> bytes:
    return _as_arrow(rows, pa.ipc.new_file)


def as_arrow_stream(rows: Sequence[dict[str, Any]]) -> bytes:
    return _as_arrow(rows, pa.ipc.new_stream)


def _as_arrow(rows: Sequence[dict[str, Any]], writer_of: Any) -> bytes:
    table = pa.Table.from_pylist(list(rows))
    stream = io.BytesIO()
    with writer_of(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return stream.getvalue()


FORMS: dict[str, tuple[str, Callable[[Sequence[dict[str, Any]]], bytes]]] = {
    "jsonl": (".jsonl", as_jsonl),
    "json lines": (".json", as_jsonl),
    "json array": (".json", lambda rows: json.dumps(list(rows)).encode()),
    "json laid out": (".json", lambda rows: json.dumps(list(rows), indent=2).encode()),
    "json values": (".json", lambda rows: "\n".join(json.dumps(row, indent=1) for row in rows).encode()),
    "csv": (".csv", as_table(",")),
    "tsv": (".tsv", as_table("\t")),
    "parquet": (".parquet", as_parquet),
    "arrow file": (".arrow", as_arrow_file),
    "arrow stream": (".arrow", as_arrow_stream),
}


def as_zip(name: str, data: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr(name, data)
    return stream.getvalue()


def as_tar(*members: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".zst": lambda data: zstandard.compress(data),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def packed(name: str, data: bytes) -> dict[str, bytes]:
    """A file in every way that it may be packed up: file name -> its bytes."""
    forms = {name + ending: compress(data) for ending, compress in COMPRESSORS.items()}
    forms["a.zip"] = as_zip(name, data)
    forms["stored.zip"] = as_zip(name, data, zipfile.ZIP_STORED)
    for ending, compress in COMPRESSORS.items():
        forms[f"a.tar{ending}"] = compress(as_tar((f"d/{name}", data)))
    forms["nested.tar"] = as_tar((f"d/{name}.gz", gzip.compress(data)))
    forms["nested.zip"] = as_zip(f"d/{name}.xz", lzma.compress(data))
    return forms
