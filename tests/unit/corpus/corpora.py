"""Corpus folders of known rows, made without Ray: for tests of what reads them.

:mod:`tests.unit.corpus.packed` makes corpora of real text.
"""

from __future__ import annotations

import hashlib
import shutil
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from codex_ray.config.corpus import Tokenizer as Settings
from codex_ray.corpus.account import Account
from codex_ray.corpus.documents import Document, write_documents
from codex_ray.corpus.manifest import (
    FORMAT_VERSION,
    DocumentsInfo,
    Manifest,
    ShardInfo,
    SourceRows,
    SplitInfo,
)
from codex_ray.corpus.pack import Layout, identity, write_shard
from codex_ray.corpus.tokenising import INDEX
from codex_ray.files import sha256_of
from codex_ray.tokenizer import Tokenizer, train_tokenizer

TEXT = ["def add(first, second):\n    return first + second\n", "the quick brown fox, again and again. " * 20]


@lru_cache
def tokenizer_folder() -> Path:
    folder = Path(mkdtemp(prefix="tokenizer-"))
    train_tokenizer(TEXT, Settings(vocabulary_size=320), folder, seed=1)
    return folder


def known_rows(rows: int, length: int, dtype: str) -> np.ndarray:
    """Row i begins with i in base 1000, so that every row says which it is."""
    tokens = np.zeros((rows, length), dtype=dtype)
    tokens[:, 0], tokens[:, 1] = np.arange(rows) // 1000, np.arange(rows) % 1000
    tokens[:, 2:] = np.arange(length - 2)
    return tokens


def row_ids(tokens: np.ndarray) -> list[int]:
    return (tokens[:, 0].astype(np.int64) * 1000 + tokens[:, 1]).tolist()


def make_corpus(
    folder: Path,
    *,
    rows: int = 53,
    length: int = 8,
    row_group_rows: int = 4,
    shard_groups: int = 3,
    dtype: str = "uint16",
    held_out: int = 5,
    sources: dict[str, tuple[int, float]] | None = None,
) -> Manifest:
    """Write a corpus of ``rows`` training rows and ``held_out`` validation rows of one source.

    ``sources`` gives rows and weights of several instead; the first ``held_out`` rows of each are also
    its validation rows.
    """
    given = sources or {"text": (rows, 1.0)}
    held = {name: min(held_out, count) for name, (count, _) in given.items()}
    total = max(1, sum(held.values()))
    validation = {name: (count, count / total) for name, count in held.items()}
    shutil.copytree(tokenizer_folder(), folder / "tokenizer")
    tokenizer = Tokenizer.load(folder / "tokenizer")
    layout = Layout(length, row_group_rows, row_group_rows * shard_groups, dtype)
    splits = {
        name: write_split(folder, name, parts, layout)
        for name, parts in (("train", given), ("validation", validation))
    }
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        sequence_length=length,
        vocabulary_size=tokenizer.vocabulary_size,
        dtype=dtype,
        tokenizer_digest=tokenizer.digest,
        content="content",
        fingerprint="",
        life_id="",
        settings={},
        request="request",
        sources={name: describe(name, splits) for name in given},
        splits=splits,
        folder=folder,
    ).sealed()
    manifest.save()
    return manifest


def write_split(folder: Path, name: str, parts: dict[str, tuple[int, float]], layout: Layout) -> SplitInfo:
    (folder / name).mkdir()
    tokens = known_rows(sum(rows for rows, _ in parts.values()), layout.sequence_length, layout.dtype)
    sources, first = [], 0
    for source, (rows, weight) in parts.items():
        shards = write_source(folder, name, source, tokens[first : first + rows], layout)
        held, size = rows * layout.sequence_length, sum(len(text) for text in TEXT)
        index = write_index(folder, name, source, held)
        counts = (rows, held, 0, len(TEXT), size)
        sources.append(SourceRows(source, weight if rows else 0.0, *counts, shards, [index]))
        first += rows
    documents = []
    if name != "train":
        path = f"{name}/documents-00000.parquet"
        count, sha256 = write_documents(
            folder / path, [Document(f"{n}.txt", text) for n, text in enumerate(TEXT)]
        )
        documents.append(DocumentsInfo(path, count, (folder / path).stat().st_size, sha256))
    return SplitInfo(sources, layout.row_group_rows, layout.rows_per_shard, documents)


def write_index(folder: Path, split: str, source: str, tokens: int) -> DocumentsInfo:
    """The tokens are the documents' in equal parts; the last has what is left over."""
    path, each = f"{split}/{source}/index-00000.parquet", tokens // len(TEXT)
    lines = [
        {
            "name": f"{number}.txt",
            "sha256": hashlib.sha256(text.encode()).digest(),
            "bytes": len(text.encode()),
            "offset": number * each,
            "tokens": each if number < len(TEXT) - 1 else tokens - number * each,
        }
        for number, text in enumerate(TEXT)
    ]
    pq.write_table(pa.Table.from_pylist(lines, INDEX), folder / path)
    return DocumentsInfo(path, len(lines), (folder / path).stat().st_size, sha256_of(folder / path))


def describe(source: str, splits: dict[str, SplitInfo]) -> dict[str, Any]:
    """Everything that was read was kept."""
    account = Account()
    for split in splits.values():
        for rows in split.sources:
            for text in TEXT if rows.source == source else ():
                account.keep(len(text.encode()), ())
    return {"path": f"/{source}", "version": None, "licence": None, **account.plain()}


def write_source(
    folder: Path, split: str, source: str, tokens: np.ndarray, layout: Layout
) -> list[ShardInfo]:
    (folder / split / source).mkdir()
    shards = []
    for number, (first, count) in enumerate(layout.shards(len(tokens))):
        path = f"{split}/{source}/shard-{number:05d}.parquet"
        group = layout.row_group_rows
        starts = range(first, first + count, group)
        groups = (tokens[start : min(start + group, first + count)].reshape(-1) for start in starts)
        named = identity("content", split, source, number)
        sha256 = write_shard(folder / path, groups, layout, named)
        size = (folder / path).stat().st_size
        shards.append(ShardInfo(path, count, count * layout.sequence_length, size, sha256))
    return shards
