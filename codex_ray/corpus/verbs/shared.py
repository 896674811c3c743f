"""Which documents several corpora share, by the SHA-256 of their text, in bounded memory.

The lines of all indexes are written to buckets on disk by the first bits of the hash; a bucket then holds all
lines of its hashes, and is small enough to be looked at as a whole. Buckets lie in the system's temporary
folder (``TMPDIR``) and take about 100 bytes per document.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codex_ray.corpus.index import readers
from codex_ray.corpus.manifest import SPLITS, Manifest
from codex_ray.files import unwritable
from codex_ray.track.progress import Progress

BUCKET_LINES = 2**19  # looked at together
MOST_BUCKETS = 2**8  # files open at a time
_SCHEMA = pa.schema(
    [
        pa.field("sha256", pa.binary(32)),
        pa.field("name", pa.string()),
        pa.field("corpus", pa.int16()),
        pa.field("split", pa.int8()),
        pa.field("source", pa.string()),
    ]
)


@dataclass(frozen=True)
class Bucket:
    """Documents of a range of hashes.

    Attributes:
        table: a row per line of an index: sha256, name, corpus, split (a place in ``SPLITS``), source.
        document: of each row, the number of its hash among the bucket's.
        splits: of each hash and corpus, the splits that hold it as bits: [hashes, corpora].
    """

    table: pa.Table
    document: NDArray[np.int64]
    splits: NDArray[np.uint8]

    def column(self, name: str) -> NDArray[Any]:
        """Return a column of whole numbers."""
        values: NDArray[Any] = self.table.column(name).to_numpy()
        return values


def buckets(corpora: Sequence[Manifest], progress: Progress) -> Iterator[Bucket]:
    """Iterate over all documents of some corpora, equal ones together.

    Raises:
        CodexRayError: an index is damaged, or the disk of the temporary folder is full.
    """
    found = [(number, reader) for number, manifest in enumerate(corpora) for reader in readers(manifest)]
    total = sum(info.documents for _, reader in found for info in reader.info.index_files)
    bits = max(0, min(MOST_BUCKETS, -(-total // BUCKET_LINES)) - 1).bit_length()
    with TemporaryDirectory(prefix="codex-ray-documents-") as folder:
        paths = [Path(folder) / f"{number}.arrow" for number in range(2**bits)]
        try:
            with ExitStack() as stack, progress.stage("compare documents", total, "lines"):
                writers = [stack.enter_context(pa.ipc.new_stream(str(path), _SCHEMA)) for path in paths]
                for number, reader in found:
                    for table in reader.tables(("sha256", "name")):
                        split = SPLITS.index(reader.split)
                        _spread(_described(table, number, split, reader.info.source), writers, bits)
                        progress.advance(len(table))
        except OSError as error:
            raise unwritable(Path(folder), error) from error
        for path in paths:
            with pa.memory_map(str(path)) as stream:
                table = pa.ipc.open_stream(stream).read_all()
            if len(table):
                yield _bucket(table, len(corpora))
            path.unlink()


def hashes(table: pa.Table) -> NDArray[Any]:
    """Return the hashes of a table as an array of 32 bytes each."""
    column = table.column("sha256").combine_chunks()
    return np.frombuffer(column.buffers()[1], dtype="S32", count=len(column), offset=column.offset * 32)


def _described(table: pa.Table, corpus: int, split: int, source: str) -> pa.Table:
    count = len(table)
    columns = [
        table.column("sha256"),
        table.column("name"),
        pa.array(np.full(count, corpus, np.int16)),
        pa.array(np.full(count, split, np.int8)),
        pa.array([source] * count, pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=_SCHEMA)


def _spread(table: pa.Table, writers: Sequence[Any], bits: int) -> None:
    if not bits:
        writers[0].write_table(table)
        return
    leading = hashes(table).view(">u2").reshape(len(table), -1)[:, 0] >> (16 - bits)
    order = np.argsort(leading, kind="stable")
    sorted_table, places = table.take(order), leading[order]
    for number in np.unique(places).tolist():
        first, stop = np.searchsorted(places, [number, number + 1])
        writers[number].write_table(sorted_table.slice(first, stop - first))


def _bucket(table: pa.Table, corpora: int) -> Bucket:
    values = hashes(table)
    unique, document = np.unique(values, return_inverse=True)
    splits = np.zeros((len(unique), corpora), np.uint8)
    corpus, split = (table.column(name).to_numpy() for name in ("corpus", "split"))
    np.bitwise_or.at(splits, (document, corpus), np.left_shift(1, split).astype(np.uint8))
    return Bucket(table, document, splits)
