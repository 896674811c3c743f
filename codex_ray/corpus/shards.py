"""The last stage of ``prepare``: shards of rows, the index of documents, and the text of held-out ones.

The counts of the parts say which tokens each row holds, so every file can be written by itself, in any
order, on any node. A file that was written for the same content is not written again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from codex_ray.config.corpus import Split
from codex_ray.corpus.documents import Document, write_documents
from codex_ray.corpus.pack import Layout, Piece, read_pieces, write_shard
from codex_ray.corpus.parts import read_part, unpack_flags
from codex_ray.corpus.split import split_of
from codex_ray.corpus.tokenising import INDEX, index_path, tokens_path
from codex_ray.errors import CodexRayError
from codex_ray.files import read_json, replacing, sha256_of, unwritable, write_json

WRITTEN = ".written"  # below the corpus being built: what is known of finished files, and the unfinished ones


@dataclass(frozen=True)
class ShardTask:
    """Write one shard from pieces of the parts' tokens; ``folders`` are the parts' by number."""

    path: Path
    split: str
    source: str
    folders: Mapping[int, Path]
    pieces: list[Piece]
    layout: Layout
    identity: dict[str, Any]


@dataclass(frozen=True)
class IndexTask:
    """Write one file of the index: of each part, its folder and where its tokens begin."""

    path: Path
    split: str
    source: str
    parts: list[tuple[Path, int]]


@dataclass(frozen=True)
class DocumentsTask:
    """Write one file of held-out documents from parts of documents: folder, documents, packed flags."""

    path: Path
    split: str
    shown: str  # before each name, where there are several sources
    parts: list[tuple[Path, int, bytes]]
    shares: Split
    seed: int


def write_file(task: ShardTask | IndexTask | DocumentsTask) -> pa.Table:
    """Write one file of the corpus; returns its path, size, hash, and how many items it holds.

    Raises:
        CodexRayError: the disk is full.
    """
    record = _record(task.path)
    row = _known(task.path, record)
    if row is None:
        try:
            task.path.parent.mkdir(parents=True, exist_ok=True)
            record.parent.mkdir(exist_ok=True)
            with replacing(task.path, record.parent) as path:  # a corpus takes its name without that folder
                count, sha256 = _write(replace(task, path=path))
                size = path.stat().st_size
            row = {"path": str(task.path), "count": count, "bytes": size, "sha256": sha256}
        except OSError as error:
            raise unwritable(task.path, error) from error
        write_json(record, row)
    return pa.Table.from_pylist([row])


def _write(task: ShardTask | IndexTask | DocumentsTask) -> tuple[int, str]:
    if isinstance(task, ShardTask):
        layout = task.layout
        paths = {number: tokens_path(folder, task.split) for number, folder in task.folders.items()}
        groups = read_pieces(paths, task.pieces, layout.dtype, layout.row_group_rows * layout.sequence_length)
        sha256 = write_shard(task.path, groups, layout, task.identity)
        return sum(piece.count for piece in task.pieces) // layout.sequence_length, sha256
    if isinstance(task, IndexTask):
        return _write_index(task)
    return write_documents(task.path, _held_out(task))


def _write_index(task: IndexTask) -> tuple[int, str]:
    count = 0
    with pq.ParquetWriter(task.path, INDEX, compression="zstd") as writer:
        for folder, base in task.parts:
            table = pq.read_table(index_path(folder, task.split), partitioning=None)
            place = INDEX.get_field_index("offset")
            moved = pa.compute.add(table.column("offset"), pa.scalar(base, pa.int64()))
            writer.write_table(table.set_column(place, INDEX.field(place), moved).cast(INDEX))
            count += len(table)
    return count, sha256_of(task.path)


def _held_out(task: DocumentsTask) -> Iterator[Document]:
    for folder, documents, packed in task.parts:
        kept = unpack_flags(packed, documents)

        def wanted(place: int, sha256: bytes, kept: Any = kept) -> bool:
            return bool(kept[place]) and split_of(sha256, task.shares, task.seed) == task.split

        for document in read_part(folder, wanted):
            yield Document(f"{task.shown}{document.name}", document.text)


def _record(path: Path) -> Path:
    return path.parents[1] / WRITTEN / f"{path.parent.name}.{path.name}.json"


def _known(path: Path, record: Path) -> dict[str, Any] | None:
    try:
        row: dict[str, Any] = read_json(record, "record") if record.exists() else {}
    except CodexRayError:
        return None
    whole = row and path.exists() and path.stat().st_size == row["bytes"]
    return row | {"path": str(path)} if whole else None
