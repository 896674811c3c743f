"""The stage of ``prepare`` that turns a part of documents into tokens, per split, ready to be cut into rows.

``contiguous``: documents one after the other, each ``<s> tokens </s>``; rows are cut wherever they end.
``best_fit``: documents longer than a row are cut into whole rows, and what is left of them, with the shorter
documents, is packed by best-fit decreasing (Ding et al. 2024, "Fewer Truncations Improve Language
Modeling"), so that no short document is cut; a row that cannot be filled ends in padding. Parts are packed
one by one, in memory that does not grow with the corpus.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from codex_ray.config.corpus import Split
from codex_ray.corpus.canaries import Planted
from codex_ray.corpus.manifest import SPLITS
from codex_ray.corpus.parts import PartDocument, read_part, unpack_flags
from codex_ray.corpus.split import split_of
from codex_ray.corpus.stages import Entry, finish

if TYPE_CHECKING:
    from codex_ray.tokenizer import Tokenizer

VERSION = 1
PLANTED = -1  # the place of a document that is in no part
BATCH_BYTES = 2**20  # text tokenised at a time
INDEX = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
    ]
)
"""A line per run of tokens: its document, and where it begins among its source's tokens of the split."""


@dataclass(frozen=True)
class TokenTask:
    """Tokenise the kept documents of one part."""

    part: Path
    documents: int
    kept: bytes  # a packed flag per document
    tokenizer: Path
    split: Split
    seed: int
    dtype: str
    packing: str
    sequence_length: int
    size: int  # bytes of text, for the display
    entry: Entry
    planted: tuple[Planted, ...] = ()  # in the train split, besides


def token_key(part_key: str, kept: str, tokenizer: str, task: dict[str, Any]) -> dict[str, Any]:
    """Return what decides the tokens of a part, given digests of the part, the flags and the tokenizer."""
    length = task["sequence_length"] if task["packing"] == "best_fit" else None
    return {
        "version": VERSION,
        "part": part_key,
        "kept": kept,
        "tokenizer": tokenizer,
        "length": length,
        "split": asdict(task["split"]),
        "seed": task["seed"],
        "dtype": task["dtype"],
        "packing": task["packing"],
    }


def tokens_path(folder: Path, split: str) -> Path:
    """Where a part's tokens of a split lie, little-endian."""
    return folder / f"{split}.tokens"


def index_path(folder: Path, split: str) -> Path:
    """Where a part's index of a split lies; see :data:`INDEX`."""
    return folder / f"{split}.index.parquet"


def tokenise_part(task: TokenTask) -> pa.Table:
    """Write the tokens and the index of a part for every split; returns a row with its bytes."""
    if task.entry.result() is None:
        tokenizer = _tokenizer(task.tokenizer)
        kept = unpack_flags(task.kept, task.documents)
        result: dict[str, dict[str, int]] = {}
        with task.entry.making() as folder:
            documents: dict[str, list[tuple[PartDocument, NDArray[Any]]]] = {split: [] for split in SPLITS}
            writers = {split: _Writer(folder, split, task.dtype) for split in SPLITS}
            for document, tokens in _tokenised(task, kept, tokenizer):
                split = split_of(document.sha256, task.split, task.seed)
                if document.place == PLANTED:
                    split = "train"
                if task.packing == "best_fit":
                    documents[split].append((document, tokens))
                else:
                    writers[split].add(document, len(document.text.encode()), tokens, first=True)
            for split, found in documents.items():
                _pack(found, writers[split], task.sequence_length, tokenizer.special_ids["pad"])
            for split, writer in writers.items():
                result[split] = writer.close()
            finish(folder, result)
    return pa.table({"bytes": [task.size]})


class _Writer:
    """Tokens and index of one split of a part."""

    def __init__(self, folder: Path, split: str, dtype: str) -> None:
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._stream = tokens_path(folder, split).open("wb")
        self._index = index_path(folder, split)
        self._lines: list[tuple[str, bytes, int, int, int]] = []
        self.tokens = self.documents = self.bytes = 0

    def add(self, document: PartDocument, size: int, tokens: NDArray[Any], first: bool) -> None:
        """Write a run of tokens of a document of ``size`` bytes; ``first`` where it is its first run."""
        self._lines.append((document.name, document.sha256, size, self.tokens, len(tokens)))
        self._stream.write(tokens.astype(self._dtype, copy=False).tobytes())
        self.tokens += len(tokens)
        if first:
            self.documents += 1
            self.bytes += size

    def pad(self, count: int, pad_id: int) -> None:
        """Fill a row."""
        self._stream.write(np.full(count, pad_id, self._dtype).tobytes())
        self.tokens += count

    def close(self) -> dict[str, int]:
        """Finish; returns the counts."""
        self._stream.close()
        columns = zip(*self._lines, strict=True) if self._lines else [()] * len(INDEX)
        arrays = [pa.array(list(column), field.type) for column, field in zip(columns, INDEX, strict=True)]
        pq.write_table(pa.Table.from_arrays(arrays, schema=INDEX), self._index, compression="zstd")
        return {"tokens": self.tokens, "documents": self.documents, "bytes": self.bytes}


def _tokenised(
    task: TokenTask, kept: NDArray[np.bool_], tokenizer: Tokenizer
) -> Iterator[tuple[PartDocument, NDArray[Any]]]:
    """Yield each document as ``<s> tokens </s>``; a foreign tokenizer without ``<s>`` has only the end."""
    dtype = np.dtype(task.dtype)
    first = np.array([] if tokenizer.bos_id is None else [tokenizer.bos_id], dtype=dtype)
    last = np.array([tokenizer.special_ids["eos"]], dtype=dtype)
    documents = read_part(task.part, lambda place, _: bool(kept[place]))
    for batch in _batches(_with_planted(documents, task.planted)):
        for document, ids in zip(batch, tokenizer.encode_arrays([d.text for d in batch]), strict=True):
            yield document, np.concatenate([first, ids, last], dtype=dtype, casting="unsafe")


def _with_planted(documents: Iterable[PartDocument], planted: Sequence[Planted]) -> Iterator[PartDocument]:
    waiting = deque(planted)
    last = PartDocument(2**62, "", b"", "")
    for document in chain(documents, [last]):
        while waiting and waiting[0].place <= document.place:
            one = waiting.popleft()
            yield PartDocument(PLANTED, one.name, sha256(one.text.encode()).digest(), one.text)
        if document is not last:
            yield document


def _batches(documents: Iterable[PartDocument]) -> Iterator[list[PartDocument]]:
    batch, held = list[PartDocument](), 0
    for document in documents:
        batch.append(document)
        held += len(document.text)
        if held >= BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _pack(
    documents: Sequence[tuple[PartDocument, NDArray[Any]]], writer: _Writer, length: int, pad_id: int
) -> None:
    """Write whole rows of long documents, then rows of what is left, by best-fit decreasing."""
    sizes = [len(document.text.encode()) for document, _ in documents]
    rests: list[tuple[int, NDArray[Any]]] = []
    cut = set()
    for number, (document, tokens) in enumerate(documents):
        whole = len(tokens) // length * length
        for start in range(0, whole, length):
            writer.add(document, sizes[number], tokens[start : start + length], first=start == 0)
            cut.add(number)
        if whole < len(tokens):
            rests.append((number, tokens[whole:]))
    for row in best_fit([len(tokens) for _, tokens in rests], length):
        held = 0
        for place in row:
            number, tokens = rests[place]
            writer.add(documents[number][0], sizes[number], tokens, first=number not in cut)
            held += len(tokens)
        if held < length:
            writer.pad(length - held, pad_id)


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack items into rows by best-fit decreasing: each goes where the least room is left after it.

    Args:
        lengths: sizes, each at most ``capacity``.
        capacity: size of a row.

    Returns:
        The items of every row, by index; rows in the order in which they were begun.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # room left and number of each row that has any, sorted
    for item in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        size = lengths[item]
        place = bisect_left(room, (size, -1))
        if place == len(room):
            rows.append([item])
            left, number = capacity - size, len(rows) - 1
        else:
            left, number = room.pop(place)
            rows[number].append(item)
            left -= size
        if left:
            insort(room, (left, number))
    return rows


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Tokenizer:
    """Keep a task process's tokenizer from one task to the next."""
    from codex_ray.tokenizer import Tokenizer

    return Tokenizer.load(folder)
