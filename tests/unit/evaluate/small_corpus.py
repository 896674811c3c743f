"""A small corpus of real Python packed without Ray, and a model folder whose tokenizer it shares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from codex_ray.config.corpus import Tokenizer as Settings
from codex_ray.config.model import Model
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
from codex_ray.model import build_model
from codex_ray.tokenizer import Tokenizer, train_tokenizer

LENGTH = 64
SHAPE = Model(hidden_size=32, intermediate_size=48, layers=2, heads=2, key_value_heads=1, head_size=16)


def library_texts(*names: str) -> list[Document]:
    """Modules of this Python's standard library."""
    import textwrap

    folder = Path(textwrap.__file__).parent
    return [Document(f"{name}.py", (folder / f"{name}.py").read_text()) for name in names]


TRAINING = library_texts("textwrap", "bisect", "heapq", "random")
HELD_OUT = library_texts("fnmatch", "glob")


def make_corpus(
    folder: Path, training: Sequence[Document] = TRAINING, held_out: Sequence[Document] = HELD_OUT
) -> Manifest:
    """Write a corpus: rows of both splits, and the held-out documents."""
    texts = [document.text for document in training]
    tokenizer = train_tokenizer(texts, Settings(vocabulary_size=500), folder / "tokenizer", seed=1)
    splits = {
        "train": _write_split(folder, "train", training, tokenizer),
        "validation": _write_split(folder, "validation", held_out, tokenizer),
    }
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        sequence_length=LENGTH,
        vocabulary_size=tokenizer.vocabulary_size,
        dtype="uint16",
        tokenizer_digest=tokenizer.digest,
        content="content",
        fingerprint="",
        life_id="",
        settings={},
        request="",
        sources={},
        splits=splits,
        folder=folder,
    ).sealed()
    manifest.save()
    return manifest


def make_model(folder: Path, tokenizer: Tokenizer) -> None:
    """Write a model folder with random weights."""
    model = build_model(
        SHAPE,
        vocabulary_size=tokenizer.vocabulary_size,
        sequence_length=LENGTH,
        seed=1,
        special_ids=tokenizer.special_ids,
    )
    model.save_pretrained(folder)
    tokenizer.save(folder)


def _write_split(folder: Path, name: str, held: Sequence[Document], tokenizer: Tokenizer) -> SplitInfo:
    (folder / name).mkdir()
    layout = Layout(LENGTH, row_group_rows=8, rows_per_shard=24, dtype="uint16")
    ids = [
        token
        for document in held
        for token in [tokenizer.bos_id, *tokenizer.encode(document.text), tokenizer.eos_id]
    ]
    rows = len(ids) // LENGTH
    tokens = np.array(ids[: rows * LENGTH], dtype="uint16").reshape(rows, LENGTH)
    shards = []
    for number, (first, count) in enumerate(layout.shards(rows)):
        path = f"{name}/shard-{number:05d}.parquet"
        groups = [
            tokens[start : min(start + layout.row_group_rows, first + count)].reshape(-1)
            for start in range(first, first + count, layout.row_group_rows)
        ]
        sha256 = write_shard(folder / path, groups, layout, identity("content", name, "text", number))
        shards.append(ShardInfo(path, count, count * LENGTH, (folder / path).stat().st_size, sha256))
    documents = []
    if name != "train":
        path = f"{name}/documents-00000.parquet"
        count, sha256 = write_documents(folder / path, held)
        documents.append(DocumentsInfo(path, count, (folder / path).stat().st_size, sha256))
    size = sum(len(document.text.encode()) for document in held)
    source = SourceRows("text", 1.0, rows, len(ids), len(ids) - rows * LENGTH, len(held), size, shards)
    return SplitInfo([source], layout.row_group_rows, layout.rows_per_shard, documents)
