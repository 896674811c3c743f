"""Small corpora of known documents, of one tokenizer, for the verbs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

import pyarrow as pa
import pyarrow.parquet as pq

from codex_ray.config.corpus import Duplicates, Pack, Prepare, Split
from codex_ray.config.corpus import Tokenizer as TokenizerSettings
from codex_ray.corpus.manifest import DocumentsInfo, Manifest
from codex_ray.files import sha256_of
from codex_ray.tokenizer import train_tokenizer
from tests.unit.corpus.packed import pack_corpus

WORDS = [
    *("the", "loop", "reads", "a", "row", "of", "tokens", "and", "gives", "its", "place", "back"),
    *("to", "whoever", "asked", "for", "it", "in", "the", "end"),
]
METHODS = ("contiguous", "best_fit")


def text_of(number: int) -> str:
    """A text of its own for every number, of 20 to 260 words; every ninth is longer than a row."""
    count = 20 + number * 37 % 60 + (180 if number % 9 == 0 else 0)
    words = [WORDS[(number * 7 + place * (number % 5 + 1)) % len(WORDS)] for place in range(count)]
    return f"Document {number}, naïve.\n" + " ".join(words)


def documents(first: int, stop: int) -> list[tuple[str, str]]:
    return [(f"folder/{number:03d}.txt", text_of(number)) for number in range(first, stop)]


@lru_cache
def tokenizer_folder() -> Path:
    folder = Path(mkdtemp(prefix="tokenizer-"))
    train_tokenizer(
        [text for _, text in documents(0, 40)], TokenizerSettings(vocabulary_size=340), folder, seed=1
    )
    return folder


def settings(
    method: str = "contiguous", *, length: int = 64, seed: int = 7, held_out: float = 0.2
) -> Prepare:
    return Prepare(
        seed=seed,
        duplicates=Duplicates(exact=True, near=False),
        split=Split(validation=held_out, test=held_out / 2),
        pack=Pack(method=method, sequence_length=length, row_group_rows=4, shard_row_groups=2),
    )


def recut(manifest: Manifest, folder: Path, lines: int = 5) -> Manifest:
    """The same corpus with its index in two files per source, in row groups of so many lines."""
    shutil.copytree(manifest.folder, folder)
    splits = {}
    for name, info in manifest.splits.items():
        sources = []
        for source in info.sources:
            paths = [folder / file.path for file in source.index_files]
            table = pa.concat_tables(pq.read_table(path, partitioning=None) for path in paths)
            files = []
            for number, half in enumerate((table.slice(0, len(table) // 2), table.slice(len(table) // 2))):
                path = folder / name / f"{source.source}-index-{number:05d}.parquet"
                pq.write_table(half, path, row_group_size=lines)
                files.append(
                    DocumentsInfo(f"{name}/{path.name}", len(half), path.stat().st_size, sha256_of(path))
                )
            sources.append(replace(source, index_files=files))
        splits[name] = replace(info, sources=sources)
    made = replace(manifest, splits=splits, folder=folder).sealed()
    made.save()
    return made


def corpus(
    folder: Path,
    given: Mapping[str, Sequence[tuple[str, str]]] | None = None,
    prepare: Prepare | None = None,
) -> Manifest:
    """Pack documents of each source; unset: two sources of 60 and 30 documents."""
    found = given or {"prose": documents(0, 60), "notes": documents(100, 130)}
    return pack_corpus(folder, found, prepare or settings(), tokenizer_folder=tokenizer_folder())
