"""Encoded examples of several sources become the packed rows of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codex_ray.corpus.manifest import ShardInfo, SourceRows, SplitInfo
from codex_ray.corpus.marked import pack_rows, targets
from codex_ray.corpus.pack import Layout, identity, write_shard
from codex_ray.files import write_text

RECORDS = "records.jsonl"


@dataclass
class Held:
    """Encoded examples, their records where these are kept, and the bytes of their learnt text."""

    examples: list[NDArray[np.uint32]] = field(default_factory=list)
    records: list[str] = field(default_factory=list)
    bytes: int = 0


@dataclass(frozen=True)
class Packer:
    """Packs the examples of each source into rows, and writes them.

    ``content`` names what went in; of ``kind``, prompts have a row each.
    """

    layout: Layout
    content: str
    kind: str

    def write(self, folder: Path, sources: Sequence[tuple[str, float, Held]], pad_id: int) -> SplitInfo:
        """Write a split of sources, each with its name, its share of the positions, and its examples."""
        folder.mkdir()
        infos, layout = [], self.layout
        for name, share, held in sources:
            rows = pack_rows(held.examples, layout.sequence_length, pad_id, together=self.kind != "prompts")
            shards = self._shards(folder, name, rows)
            learnt = sum(targets(example) for example in held.examples)
            weight = share if len(rows) else 0.0
            infos.append(
                SourceRows(name, weight, len(rows), learnt, 0, len(held.examples), held.bytes, shards)
            )
        records = [text for *_, held in sources for text in held.records]
        if records:
            write_text(folder / RECORDS, "".join(f"{text}\n" for text in records))
        return SplitInfo(infos, layout.row_group_rows, layout.rows_per_shard)

    def _shards(self, folder: Path, name: str, rows: NDArray[np.uint32]) -> list[ShardInfo]:
        shards, layout, group = [], self.layout, self.layout.row_group_rows
        for number, (first, count) in enumerate(layout.shards(len(rows))):
            path = folder / f"{name}-shard-{number:05d}.parquet"
            last = first + count
            groups = (
                rows[start : min(start + group, last)].reshape(-1) for start in range(first, last, group)
            )
            sha256 = write_shard(path, groups, layout, identity(self.content, folder.name, name, number))
            tokens = count * layout.sequence_length
            shards.append(ShardInfo(f"{folder.name}/{path.name}", count, tokens, path.stat().st_size, sha256))
        return shards
