"""What the name of a file says: how it is compressed, what it holds, and how it is written down."""

from __future__ import annotations

import os
from collections.abc import Sequence

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
RECORDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
# What lies in folders of text and source code without being documents: settings, tables of numbers.
EVERYDAY = ("json", "csv", "tsv")
TARS = {
    ".tar": None,
    ".tar.gz": "gzip",
    ".tgz": "gzip",
    ".tar.zst": "zstd",
    ".tar.bz2": "bz2",
    ".tbz2": "bz2",
    ".tar.xz": "xz",
    ".txz": "xz",
}
ARCHIVES = ("zip", "tar")


def label(name: bytes) -> str:
    r"""Return a name as text that can be printed and stored, a different text for each name.

    Bytes that are no UTF-8 are escaped (``\xe9``), and so that they cannot be mistaken for anything
    else, a backslash is doubled.
    """
    return name.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def label_of(name: str) -> str:
    """Return :func:`label` of a name as Python's file functions give it, undecodable bytes as surrogates."""
    return label(os.fsencode(name))


def compression_of(name: str) -> str | None:
    """Return how a file or tar archive of this name is compressed: gzip, zstd, bz2, xz, or not at all."""
    for ending, compression in (*TARS.items(), *COMPRESSIONS.items()):
        if name.lower().endswith(ending):
            return compression
    return None


def kind_of(name: str, format: str, suffixes: Sequence[str], *, named: bool) -> str | None:
    """Return what a file holds, going by its name and the source's ``format``; None: it is not wanted.

    Args:
        name: the file's name, or its path.
        format: ``format`` of the source.
        suffixes: endings of text files.
        named: the user gave this very file (or a glob that it matches), rather than a folder of files.

    Of a folder with ``format=auto``, text files and files of records are wanted, but of ``EVERYDAY``
    kinds only where ``suffixes`` or the ``format`` ask for them.
    """
    lower = name.lower()
    if lower.endswith(".zip"):
        return "zip"
    if lower.endswith(tuple(TARS)):
        return "tar"
    plain = name
    for ending in COMPRESSIONS:
        if lower.endswith(ending):
            plain = name[: -len(ending)]
    record = RECORDS.get(os.path.splitext(plain)[1].lower())  # noqa: PTH122 -- a name, with its bytes, not a path
    listed = plain.endswith(tuple(suffixes)) or name.endswith(tuple(suffixes))
    if format == "auto":
        if listed:
            return record or "text"
        return record if named or record not in EVERYDAY else None
    if format == "text":
        return "text" if named or listed else None
    if format == "datasets":
        return "arrow" if record == "arrow" else None
    if named or record == format or (format == "jsonl" and record == "json"):
        return format
    return None
