"""Held-out documents as text: kept in the corpus, so that a model can be measured per byte.

Training documents are not kept; they are in the source folder and, as tokens, in the shards.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from codex_ray.corpus.manifest import Manifest, check_size, damaged
from codex_ray.errors import CodexRayError
from codex_ray.files import sha256_of

SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("name", "text")])
GROUP_BYTES = 4 * 2**20  # text held in memory while writing or reading


@dataclass(frozen=True)
class Document:
    """A document's name (its path below the source folder) and its text."""

    name: str
    text: str


def documents(folder: Path | str, split: str) -> Iterator[Document]:
    """Iterate over the documents of a held-out split, in the order of their names.

    Raises:
        CodexRayError: the split keeps no documents (train), is unknown, or a file is damaged.
    """
    manifest = Manifest.load(folder)
    info = manifest.split(split)
    if not info.document_files:
        raise CodexRayError(
            f"split {split!r} of corpus {folder} keeps no documents (only held-out splits do); "
            "give split=validation or split=test"
        )
    return _iterate(manifest, split)


def _iterate(manifest: Manifest, split: str) -> Iterator[Document]:
    for info in manifest.splits[split].document_files:
        path = manifest.folder / info.path
        check_size(path, info.bytes)
        if sha256_of(path) != info.sha256:  # all of it is read anyway
            raise damaged(path, "its SHA-256 is not the manifest's")
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                table = file.read_row_group(number, use_threads=False)
                for row in table.to_pylist():
                    yield Document(row["name"], row["text"])


def write_documents(path: Path, kept: Iterable[Document]) -> tuple[int, str]:
    """Write documents as Parquet, durably; returns how many and the file's SHA-256."""
    count = held = 0
    group: list[Document] = []
    with pq.ParquetWriter(path, SCHEMA, compression="zstd", write_statistics=False) as writer:
        for document in kept:
            group.append(document)
            held += len(document.text)
            count += 1
            if held >= GROUP_BYTES:
                writer.write_table(_table(group))
                group, held = [], 0
        if group:
            writer.write_table(_table(group))
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    return count, sha256_of(path)


def _table(group: list[Document]) -> pa.Table:
    names, texts = [document.name for document in group], [document.text for document in group]
    return pa.Table.from_arrays([pa.array(names, pa.string()), pa.array(texts, pa.string())], schema=SCHEMA)
