"""Encoded examples of several sources become the packed rows of a split.

Examples lie in temporary files until they are packed, so that memory does not grow with their text.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codex_ray.corpus.manifest import ShardInfo, SourceRows, SplitInfo
from codex_ray.corpus.marked import alone, fill_rows, targets
from codex_ray.corpus.pack import Layout, identity, write_shard
from codex_ray.corpus.tokenising import best_fit
from codex_ray.errors import CodexRayError
from codex_ray.files import replacing, unwritable

RECORDS = "records.jsonl"


class Held:
    """Encoded examples, their records where these are kept, and the bytes of their learnt text.

    They are in temporary files; of each example memory holds the length.
    """

    def __init__(self) -> None:
        self._tokens = tempfile.TemporaryFile()  # noqa: SIM115 -- goes with this
        self._texts = tempfile.TemporaryFile()  # noqa: SIM115
        self.lengths, self.records, self.targets, self.bytes = array("q"), 0, 0, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def add(self, example: NDArray[np.uint32], size: int = 0, record: str | None = None) -> None:
        """Take an example of stored tokens, with ``size`` bytes of learnt text.

        Raises:
            CodexRayError: the disk of temporary files is full.
        """
        try:
            self._tokens.write(example.tobytes())
            if record is not None:
                self._texts.write(f"{record}\n".encode())
                self.records += 1
        except OSError as error:
            raise unwritable(Path(tempfile.gettempdir()), error) from error
        self.lengths.append(len(example))
        self.targets += targets(example)
        self.bytes += size

    def tokens(self) -> NDArray[np.uint32]:
        """Return the stored tokens of all examples, one behind the other, as they lie on disk."""
        self._tokens.flush()
        if not self.lengths:
            return np.empty(0, np.uint32)
        return np.memmap(self._tokens, dtype=np.uint32, mode="r")

    def texts(self) -> Iterator[bytes]:
        """Give the records, one a line."""
        self._texts.seek(0)
        yield from self._texts


class Lines:
    """The lines of a file, read one at a time; of each line memory holds where it begins.

    Raises:
        CodexRayError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._stream = path.open("rb")
        except OSError as error:
            raise CodexRayError(f"{path} cannot be read ({error.strerror}); begin the run again") from error
        self._starts, place = array("q"), 0
        for line in self._stream:
            self._starts.append(place)
            place += len(line)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> str:
        self._stream.seek(self._starts[number])
        return self._stream.readline().decode().rstrip("\n")


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
            packing = alone if self.kind == "prompts" else best_fit
            packed = packing(held.lengths, layout.sequence_length)
            shards = self._shards(folder, name, held, packed, pad_id)
            counts = (len(packed), held.targets, 0, len(held), held.bytes)
            infos.append(SourceRows(name, share if len(packed) else 0.0, *counts, shards))
        if any(held.records for *_, held in sources):
            with replacing(folder / RECORDS) as path, path.open("wb") as stream:
                for *_, held in sources:
                    stream.writelines(held.texts())
        return SplitInfo(infos, layout.row_group_rows, layout.rows_per_shard)

    def _shards(
        self, folder: Path, name: str, held: Held, packed: Sequence[Iterable[int]], pad_id: int
    ) -> list[ShardInfo]:
        shards, layout, group = [], self.layout, self.layout.row_group_rows
        tokens, length = held.tokens(), layout.sequence_length
        ends = np.cumsum(np.asarray(held.lengths, dtype=np.int64))
        for number, (first, count) in enumerate(layout.shards(len(packed))):
            path = folder / f"{name}-shard-{number:05d}.parquet"
            last = first + count
            groups = (
                fill_rows(tokens, ends, packed[start : min(start + group, last)], length, pad_id).reshape(-1)
                for start in range(first, last, group)
            )
            sha256 = write_shard(path, groups, layout, identity(self.content, folder.name, name, number))
            size = path.stat().st_size
            shards.append(ShardInfo(f"{folder.name}/{path.name}", count, count * length, size, sha256))
        return shards
