"""From tokens of parts to splits: which tasks write which files, and what the manifest says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codex_ray.config.corpus import Prepare, Source
from codex_ray.corpus.duplicates.find import Run
from codex_ray.corpus.grouping import group_by_bytes
from codex_ray.corpus.manifest import SPLITS, DocumentsInfo, ShardInfo, SourceRows, SplitInfo
from codex_ray.corpus.pack import Layout, identity, pieces
from codex_ray.corpus.parts import pack_flags
from codex_ray.corpus.repeated import Part
from codex_ray.corpus.shards import DocumentsTask, IndexTask, ShardTask, write_file
from codex_ray.errors import CodexRayError

DOCUMENTS_BYTES = 64 * 2**20  # text per file of held-out documents
INDEX_DOCUMENTS = 2**20  # per file of the index
Task = ShardTask | IndexTask | DocumentsTask


@dataclass(frozen=True)
class TokenPart:
    """The tokens of a part: their folder, and per split the counts of tokens, documents and bytes."""

    part: Part
    folder: Path
    counts: Mapping[str, Mapping[str, int]]


class Packing:
    """Writes the files of every split below ``building``."""

    def __init__(
        self,
        settings: Prepare,
        sources: Mapping[str, Source],
        layout: Layout,
        building: Path,
        content: str,
        seed: int,
    ) -> None:
        self.settings, self.sources, self.layout = settings, sources, layout
        self.building, self.content, self.seed = building, content, seed

    def write(
        self, tokens: Sequence[TokenPart], kept: Sequence[NDArray[np.bool_]], run: Run
    ) -> dict[str, SplitInfo]:
        """Write everything; returns the splits for the manifest.

        Raises:
            CodexRayError: a split has fewer tokens than a row.
        """
        by_source = {
            name: [
                (token, flags) for token, flags in zip(tokens, kept, strict=True) if token.part.source == name
            ]
            for name in self.sources
        }
        tasks: list[Task] = []
        for split in SPLITS:
            (self.building / split).mkdir(parents=True, exist_ok=True)
            self._check_rows(split, tokens)
            for name, found in by_source.items():
                tasks += self._shards(split, name, [token for token, _ in found])
                tasks += self._index(split, name, [token for token, _ in found])
                if split != "train":
                    tasks += self._held_out(split, name, found)
        written: dict[Path, dict[str, Any]] = {}
        for table in run(write_file, tasks, False):
            (row,) = table.to_pylist()
            written[Path(row["path"])] = row
        return {
            split: self._split(
                split,
                {name: [t for t, _ in found] for name, found in by_source.items()},
                [(task, written[task.path]) for task in tasks if task.split == split],
            )
            for split in SPLITS
        }

    def _shards(self, split: str, name: str, tokens: Sequence[TokenPart]) -> Iterator[ShardTask]:
        length = self.layout.sequence_length
        counts = [token.counts[split]["tokens"] for token in tokens]
        for number, (first, rows) in enumerate(self.layout.shards(sum(counts) // length)):
            found = pieces(counts, first * length, (first + rows) * length)
            folders = {piece.part: tokens[piece.part].folder for piece in found}
            named = identity(self.content, split, name, number)
            path = self._path(split, name, "shard", number)
            yield ShardTask(path, split, name, folders, found, self.layout, named)

    def _index(self, split: str, name: str, tokens: Sequence[TokenPart]) -> Iterator[IndexTask]:
        base, bases = 0, []
        for token in tokens:
            bases.append((token.folder, base))
            base += token.counts[split]["tokens"]
        documents = [token.counts[split]["documents"] for token in tokens]
        for number, run in enumerate(group_by_bytes(documents, INDEX_DOCUMENTS)):
            if sum(documents[run]):
                yield IndexTask(self._path(split, name, "index", number), split, name, bases[run])

    def _held_out(
        self, split: str, name: str, found: Sequence[tuple[TokenPart, NDArray[np.bool_]]]
    ) -> Iterator[DocumentsTask]:
        sizes = [token.counts[split]["bytes"] for token, _ in found]
        for number, run in enumerate(group_by_bytes(sizes, DOCUMENTS_BYTES)):
            if not sum(sizes[run]):
                continue
            parts = [
                (token.part.folder, token.part.documents, pack_flags(flags)) for token, flags in found[run]
            ]
            shown = f"{name}/" if len(self.sources) > 1 else ""
            path = self._path(split, name, "documents", number)
            yield DocumentsTask(path, split, shown, parts, self.settings.split, self.seed)

    def _path(self, split: str, name: str, kind: str, number: int) -> Path:
        return self.building / split / f"{name}-{kind}-{number:05d}.parquet"

    def _check_rows(self, split: str, tokens: Sequence[TokenPart]) -> None:
        held = {key: sum(token.counts[split][key] for token in tokens) for key in ("documents", "tokens")}
        wanted = {"train": 1.0, "validation": self.settings.split.validation, "test": 0.0}[split]
        if wanted and not held["documents"]:
            total = sum(counts["documents"] for token in tokens for counts in token.counts.values())
            raise CodexRayError(
                f"none of the {total} documents fell into the {split} split; add documents or change the "
                "shares in split.* (split.validation=0 holds none out)"
            )
        by_source = {token.part.source: 0 for token in tokens}
        for token in tokens:
            by_source[token.part.source] += token.counts[split]["tokens"]
        if wanted and max(by_source.values()) < self.layout.sequence_length:
            raise CodexRayError(
                f"the {split} split has {held['tokens']} tokens, fewer than one row of "
                f"{self.layout.sequence_length}; add text, lower pack.sequence_length or change the shares "
                "in split.*"
            )
        for name, count in by_source.items():
            if split == "train" and self.sources[name].weight and count < self.layout.sequence_length:
                raise CodexRayError(
                    f"source {name!r} has {count} training tokens, fewer than one row of "
                    f"{self.layout.sequence_length}; add text to it or leave it out"
                )

    def _split(
        self,
        split: str,
        tokens: Mapping[str, Sequence[TokenPart]],
        written: Sequence[tuple[Task, dict[str, Any]]],
    ) -> SplitInfo:
        length = self.layout.sequence_length
        rows = {
            name: sum(token.counts[split]["tokens"] for token in found) // length
            for name, found in tokens.items()
        }
        weights = self._weights(split, rows)
        sources = []
        for name, found in tokens.items():
            counts = {
                key: sum(t.counts[split][key] for t in found) for key in ("tokens", "documents", "bytes")
            }
            files: dict[type, list[dict[str, Any]]] = {ShardTask: [], IndexTask: []}
            for task, row in written:
                if isinstance(task, ShardTask | IndexTask) and task.source == name:
                    files[type(task)].append(row)
            shards = [
                ShardInfo(_below(row), row["count"], row["count"] * length, row["bytes"], row["sha256"])
                for row in files[ShardTask]
            ]
            sources.append(
                SourceRows(
                    source=name,
                    weight=weights[name],
                    rows=rows[name],
                    unused_tokens=counts["tokens"] - rows[name] * length,
                    **counts,
                    shards=shards,
                    index_files=[_documents(row) for row in files[IndexTask]],
                )
            )
        documents = [_documents(row) for task, row in written if isinstance(task, DocumentsTask)]
        return SplitInfo(sources, self.layout.row_group_rows, self.layout.rows_per_shard, documents)

    def _weights(self, split: str, rows: Mapping[str, int]) -> dict[str, float]:
        given = {name: source.weight for name, source in self.sources.items() if source.weight is not None}
        parts = given if split == "train" and given else {name: float(count) for name, count in rows.items()}
        total = sum(parts.values())
        return {name: parts[name] / total if total else 0.0 for name in rows}


def _below(row: Mapping[str, Any]) -> str:
    path = Path(row["path"])
    return f"{path.parent.name}/{path.name}"


def _documents(row: Mapping[str, Any]) -> DocumentsInfo:
    return DocumentsInfo(_below(row), row["count"], row["bytes"], row["sha256"])
