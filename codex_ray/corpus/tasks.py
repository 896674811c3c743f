"""The two passes of ``prepare``, as tasks that run in any order on any node that sees the folders.

Pass 1 tokenises runs of documents into part files, one per split, and counts. Pass 2 writes shards:
the counts say which tokens of which parts each row holds. A task needs memory for one document batch
or one row group, and rereads its source, which must not have changed since it was scanned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from codex_ray.corpus.documents import Document, write_documents
from codex_ray.corpus.gather import Source, group_by_bytes
from codex_ray.corpus.manifest import SPLITS
from codex_ray.corpus.pack import Layout, Piece, read_pieces, write_shard
from codex_ray.corpus.read import UnreadableError, label, path_below, read_text
from codex_ray.errors import CodexRayError
from codex_ray.files import unwritable

if TYPE_CHECKING:
    from codex_ray.tokenizer import Tokenizer

BATCH_BYTES = 2**20  # text tokenised at a time


@dataclass(frozen=True)
class PartTask:
    """Tokenise a run of documents of ``folder`` into part ``number`` below ``parts``."""

    folder: Path
    documents: list[Source]
    tokenizer: Path
    parts: Path
    number: int
    dtype: str


@dataclass(frozen=True)
class ShardTask:
    """Write one shard from pieces of parts."""

    path: Path
    split: str
    parts: Path
    pieces: list[Piece]
    layout: Layout
    identity: dict[str, Any]


@dataclass(frozen=True)
class DocumentsTask:
    """Write one file of held-out documents."""

    folder: Path
    documents: list[Source]
    path: Path


def read_source(folder: Path, source: Source) -> str:
    """Read a scanned document again.

    Raises:
        CodexRayError: it is not what it was when it was scanned.
    """
    try:
        read = read_text(path_below(folder, source.name), source.bytes)
    except UnreadableError:
        read = None
    if read is None or hashlib.sha256(read[0].encode()).digest() != source.sha256:
        raise CodexRayError(f"{label(source.name)} changed while it was being prepared; run prepare again")
    return read[0]


def tokenise_part(task: PartTask) -> pa.Table:
    """Pass 1: returns one row with the part's number and its tokens per split."""
    tokenizer = _tokenizer(task.tokenizer)
    counts = dict.fromkeys(SPLITS, 0)
    for split in SPLITS:
        chosen = [source for source in task.documents if source.split == split]
        path = part_path(task.parts, task.number, split)
        if not chosen:
            continue
        with writing(path), path.open("wb") as stream:
            for tokens in _tokenised(task.folder, chosen, tokenizer, task.dtype):
                stream.write(tokens.tobytes())
                counts[split] += len(tokens)
    size = sum(source.bytes for source in task.documents)
    return pa.table({"part": [task.number], "bytes": [size], **{split: [counts[split]] for split in SPLITS}})


def write_task(task: ShardTask | DocumentsTask) -> pa.Table:
    """Pass 2: writes one file; returns its path's name, folder, size, hash, and how many items it holds."""
    with writing(task.path):
        if isinstance(task, ShardTask):
            layout = task.layout
            count = sum(piece.count for piece in task.pieces) // layout.sequence_length
            paths = {piece.part: part_path(task.parts, piece.part, task.split) for piece in task.pieces}
            group = layout.row_group_rows * layout.sequence_length
            groups = read_pieces(paths, task.pieces, layout.dtype, group)
            sha256 = write_shard(task.path, groups, layout, task.identity)
        else:
            texts = (
                Document(label(source.name), read_source(task.folder, source)) for source in task.documents
            )
            count, sha256 = write_documents(task.path, texts)
        size = task.path.stat().st_size
    kind = type(task).__name__
    row = {"kind": kind, "split": task.path.parent.name, "name": task.path.name}
    return pa.Table.from_pylist([{**row, "count": count, "bytes": size, "sha256": sha256}])


def part_path(parts: Path, number: int, split: str) -> Path:
    """Where pass 1 leaves the tokens of one part and split, little-endian."""
    return parts / f"{number:07d}.{split}"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write ``path`` into one sentence."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def _tokenised(
    folder: Path, documents: Sequence[Source], tokenizer: Tokenizer, dtype: str
) -> Iterator[np.ndarray[Any, Any]]:
    """Yield each document as ``<s> tokens </s>``; a foreign tokenizer without ``<s>`` has only the end."""
    stored = np.dtype(dtype).newbyteorder("<")
    first = np.array([] if tokenizer.bos_id is None else [tokenizer.bos_id], dtype=stored)
    last = np.array([tokenizer.special_ids["eos"]], dtype=stored)
    for run in group_by_bytes([source.bytes for source in documents], BATCH_BYTES):
        texts = [read_source(folder, source) for source in documents[run]]
        for ids in tokenizer.encode_arrays(texts):
            yield np.concatenate([first, ids, last], dtype=stored, casting="unsafe")


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Tokenizer:
    from codex_ray.tokenizer import Tokenizer

    return Tokenizer.load(folder)
