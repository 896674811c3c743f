"""Parts of documents: the cleaned text of a run of units, on disk between the stages of ``prepare``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

GROUP_BYTES = 4 * 2**20  # text held in memory while writing or reading
DOCUMENTS, HASHES, SIZES = "documents.parquet", "hashes", "sizes.npy"
SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
        pa.field("text", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class PartDocument:
    """A document of a part: its place there, name, the SHA-256 of its UTF-8 text, and the text."""

    place: int
    name: str
    sha256: bytes
    text: str


class PartWriter:
    """Writes documents to one part, a few megabytes at a time."""

    def __init__(self, folder: Path, on_group: Callable[[list[str]], None]) -> None:
        self._writer = pq.ParquetWriter(
            folder / DOCUMENTS, SCHEMA, compression="zstd", write_statistics=False, write_page_checksum=True
        )
        self._on_group = on_group
        self._group: list[tuple[str, bytes, str]] = []
        self._held = 0
        self._identity = hashlib.sha256()
        self._folder = folder
        self.sha256: list[bytes] = []
        self.sizes: list[int] = []

    def add(self, name: str, text: str) -> int:
        """Write one document; returns the bytes of its text."""
        data = text.encode()
        sha256 = hashlib.sha256(data).digest()
        self._group.append((name, sha256, text))
        self._identity.update(name.encode() + b"\0" + sha256)
        self.sha256.append(sha256)
        self.sizes.append(len(data))
        self._held += len(data)
        if self._held >= GROUP_BYTES:
            self._flush()
        return len(data)

    def close(self) -> str:
        """Finish the file; returns the digest of its documents' names and texts."""
        self._flush()
        self._writer.close()
        np.save(self._folder / SIZES, np.array(self.sizes, dtype=np.int64))
        return self._identity.hexdigest()

    def _flush(self) -> None:
        if self._group:
            names, hashes, texts = map(list, zip(*self._group, strict=True))
            self._on_group(texts)
            self._writer.write_table(
                pa.Table.from_arrays(
                    [
                        pa.array(names, pa.string()),
                        pa.array(hashes, pa.binary(32)),
                        pa.array(texts, pa.string()),
                    ],
                    schema=SCHEMA,
                )
            )
            self._group, self._held = [], 0


def read_part(
    folder: Path, wanted: Callable[[int, bytes], bool], columns: tuple[str, ...] = ("name", "sha256", "text")
) -> Iterator[PartDocument]:
    """Iterate over documents of a part for which ``wanted(place, sha256)`` holds, one row group at a time."""
    place = 0
    with pq.ParquetFile(folder / DOCUMENTS, memory_map=True, page_checksum_verification=True) as file:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, columns=["sha256"], use_threads=False)
            hashes = table.column("sha256").to_pylist()
            chosen = [index for index, sha256 in enumerate(hashes) if wanted(place + index, sha256)]
            if chosen:
                rows: dict[str, Any] = (
                    file.read_row_group(number, columns=list(columns), use_threads=False)
                    .take(chosen)
                    .to_pydict()
                )
                names, texts = rows.get("name"), rows.get("text")
                for order, index in enumerate(chosen):
                    yield PartDocument(
                        place + index,
                        names[order] if names else "",
                        hashes[index],
                        texts[order] if texts else "",
                    )
            place += len(hashes)


def pack_flags(flags: NDArray[np.bool_]) -> bytes:
    """Return flags, one per document of a part, as bits; :func:`unpack_flags` gives them back."""
    return np.packbits(flags).tobytes()


def unpack_flags(kept: bytes, documents: int) -> NDArray[np.bool_]:
    """Return the flags that :func:`pack_flags` packed, one per document of a part."""
    return np.unpackbits(np.frombuffer(kept, np.uint8), count=documents).astype(np.bool_)
