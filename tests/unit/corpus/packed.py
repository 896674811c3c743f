"""Corpora of real text, made by the stages of ``prepare`` after reading, without Ray."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from codex_ray.config.corpus import Prepare, Source
from codex_ray.config.fields import to_dict
from codex_ray.corpus.account import Account
from codex_ray.corpus.duplicates.hashes import write_part
from codex_ray.corpus.duplicates.minhash import MinHash
from codex_ray.corpus.manifest import FORMAT_VERSION, Manifest
from codex_ray.corpus.pack import Layout
from codex_ray.corpus.packing import Packing, TokenPart
from codex_ray.corpus.parts import HASHES, PartWriter
from codex_ray.corpus.repeated import Part, keep_first
from codex_ray.corpus.stages import Stages
from codex_ray.corpus.tokenising import TokenTask, tokenise_part
from codex_ray.tokenizer import Tokenizer, train_tokenizer

Documents = Mapping[str, Sequence[tuple[str, str]]]


def run(function: Any, tasks: Sequence[Any], ordered: bool) -> Iterator[pa.Table]:
    yield from map(function, tasks)


def pack_corpus(
    folder: Path,
    documents: Documents,
    settings: Prepare,
    accounts: Mapping[str, Account] | None = None,
    tokenizer_folder: Path | None = None,
) -> Manifest:
    """Deduplicate, split, tokenise and pack names and texts of each source.

    Args:
        folder: where the corpus goes.
        documents: of each source.
        settings: of ``prepare``.
        accounts: what became of each source's items before, which count besides the documents.
        tokenizer_folder: a trained tokenizer; unset trains one on the texts.
    """
    stages, seed = Stages(folder.with_name(f".{folder.name}.stages")), settings.seed
    parts = [
        _part(stages, name, found, settings, (accounts or {}).get(name, Account()))
        for name, found in documents.items()
    ]
    kept = keep_first(parts, settings.duplicates, stages, run)
    if tokenizer_folder is None:
        texts = [text for found in documents.values() for _, text in found]
        train_tokenizer(texts, settings.tokenizer, folder / "tokenizer", seed)
    else:
        shutil.copytree(tokenizer_folder, folder / "tokenizer")
    tokenizer = Tokenizer.load(folder / "tokenizer")
    layout = Layout(
        settings.pack.sequence_length,
        settings.pack.row_group_rows,
        settings.pack.row_group_rows * settings.pack.shard_row_groups,
        "uint16",
    )
    tokens = []
    for part, flags in zip(parts, kept, strict=True):
        task = TokenTask(
            part=part.folder,
            documents=part.documents,
            kept=np.packbits(flags).tobytes(),
            tokenizer=folder / "tokenizer",
            split=settings.split,
            seed=seed,
            dtype="uint16",
            packing=settings.pack.method,
            sequence_length=layout.sequence_length,
            size=0,
            entry=stages.entry("tokens", [part.identity, tokenizer.digest, str(folder)]),
        )
        tokenise_part(task)
        tokens.append(TokenPart(part, task.entry.folder, task.entry.result() or {}))
    sources = settings.sources or {name: Source(path=f"/{name}") for name in documents}
    splits = Packing(settings, sources, layout, folder, "content", seed).write(tokens, kept, run)
    shutil.rmtree(folder / ".written")
    described = {
        part.source: {
            "path": sources[part.source].path,
            "version": sources[part.source].version,
            "licence": sources[part.source].licence,
            **part.account.plain(),
        }
        for part in parts
    }
    values = to_dict(settings)
    names = ("suffixes", "on_error", "tokenizer", "limits", "clean", "duplicates", "split", "pack")
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        sequence_length=layout.sequence_length,
        vocabulary_size=tokenizer.vocabulary_size,
        dtype="uint16",
        tokenizer_digest=tokenizer.digest,
        content="content",
        request="request",
        fingerprint="",
        life_id="",
        settings={"seed": seed, **{name: values[name] for name in names}},
        sources=described,
        splits=splits,
        folder=folder,
    ).sealed()
    manifest.save()
    return manifest


def _part(
    stages: Stages, name: str, documents: Sequence[tuple[str, str]], settings: Prepare, account: Account
) -> Part:
    """Write the documents as reading would."""
    minhash = MinHash(settings.duplicates)
    signatures = []
    key = [name, [list(document) for document in documents]]
    entry = stages.entry("read", key)
    with entry.making() as folder:
        writer = PartWriter(folder, lambda texts: signatures.append(minhash.signatures(texts)))
        for title, text in documents:
            account.keep(writer.add(title, text), ())
        identity = writer.close()
        hashes = np.frombuffer(b"".join(writer.sha256), np.uint8).reshape(-1, 32)
        near = np.concatenate(signatures) if signatures else minhash.signatures([])
        write_part(folder / HASHES, hashes, near if settings.duplicates.near else None)
    return Part(name, entry.folder, identity, len(documents), account)
