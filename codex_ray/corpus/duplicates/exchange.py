"""The tasks of finding duplicates: each looks at one bucket of the documents of all parts.

A bucket is a range of a 64-bit hash: of a document's content, or of one band of its signature. In every
part the hashes are sorted, so that a bucket is one run of each. A task cuts its range until what it
holds at a time is at most ``capacity`` documents; a single hash that more documents share is streamed.
What a task returns is a table of links: 16 bytes per document that is linked to an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codex_ray.corpus.duplicates.group import BLOCK, Group, Int64, Signatures
from codex_ray.corpus.duplicates.hashes import open_arrays, open_part, write_arrays
from codex_ray.corpus.duplicates.minhash import mix
from codex_ray.corpus.duplicates.words import UInt64
from codex_ray.errors import CodexRayError

GATHERED_BYTES = 16 * 2**20  # signatures that are read together
STEP = np.uint64(0xC6BC279692B5CC83)


@dataclass(frozen=True)
class Corpus:
    """The files of hashes of all parts, and the number of each part's first document."""

    paths: tuple[Path, ...]
    starts: tuple[int, ...]


@dataclass(frozen=True)
class Bucket:
    """Hashes from ``first`` to before ``stop``, at most ``capacity`` of them at a time."""

    first: int
    stop: int
    capacity: int


@dataclass(frozen=True)
class ExactTask:
    """Find equal contents in a bucket of content hashes."""

    corpus: Corpus
    bucket: Bucket


@dataclass(frozen=True)
class BandsTask:
    """Sort the bands of one part: of the documents whose bits in ``kept`` are set."""

    path: Path
    kept: bytes
    bands: int
    rows: int


@dataclass(frozen=True)
class NearTask:
    """Find nearly equal documents in a bucket of the hashes of one band."""

    corpus: Corpus
    bucket: Bucket
    band: int
    needed: int


def bands_path(path: Path) -> Path:
    """Where the sorted bands of a part are left while near-duplicates are looked for."""
    return path.with_name(f"{path.name}.bands")


def exact_links(task: ExactTask) -> pa.Table:
    """Link documents to the first one with the same content; repeats within a part are not looked at."""
    parts = [open_part(path) for path in task.corpus.paths]
    leading = [part.leading for part in parts]
    links = []
    for first, stop in _ranges(leading, task.bucket):
        spans = [_span(hashes, first, stop) for hashes in leading]
        hashes = np.concatenate([hashes[span] for hashes, span in zip(leading, spans, strict=True)])
        documents = np.concatenate(
            [
                part.places[span].astype(np.int64) + start
                for part, span, start in zip(parts, spans, task.corpus.starts, strict=True)
            ]
        )
        order = np.argsort(hashes)
        same = hashes[order][1:] == hashes[order][:-1]
        shared = order[np.append(same, False) | np.append(False, same)]
        if not len(shared):
            continue
        rest = np.concatenate([part.rest[span] for part, span in zip(parts, spans, strict=True)])[shared]
        numbers = np.concatenate([hashes[shared, None], rest.view("<u8")], axis=1)
        documents = documents[shared]
        order = np.lexsort([documents, *numbers.T])
        numbers, documents = numbers[order], documents[order]
        begins = np.append(True, (numbers[1:] != numbers[:-1]).any(axis=1))
        firsts = documents[begins][np.cumsum(begins) - 1]
        links.append(np.stack([documents, firsts], axis=1)[~begins])
    return _table(links)


def write_bands(task: BandsTask) -> pa.Table:
    """Write the sorted band hashes of a part, and its documents in that order, beside it.

    Raises:
        CodexRayError: the part has no signatures, or others than the settings ask for.
    """
    part = open_part(task.path)
    places = task.bands * task.rows
    if part.signatures is None or part.signatures.shape[1] != places:
        found = "no" if part.signatures is None else part.signatures.shape[1]
        raise CodexRayError(
            f"documents of {task.path} have {found} hashes in their signatures, but duplicates.bands times "
            f"duplicates.rows is {places}; remove the file and run prepare again"
        )
    kept = np.flatnonzero(np.unpackbits(np.frombuffer(task.kept, dtype=np.uint8), count=part.documents))
    hashes = np.empty((task.bands, len(kept)), dtype=np.uint64)
    documents = np.empty((task.bands, len(kept)), dtype="<u4")
    step = max(1, GATHERED_BYTES // (4 * places))
    for first in range(0, len(kept), step):
        chosen = part.signatures[kept[first : first + step]]
        hashes[:, first : first + step] = band_hashes(chosen, task.bands)
    for band in range(task.bands):
        order = np.argsort(hashes[band], kind="stable")
        hashes[band], documents[band] = hashes[band][order], kept[order]
    write_arrays(bands_path(task.path), [hashes, documents])
    return pa.table({"documents": [len(kept)]})


def band_hashes(signatures: Signatures, bands: int) -> UInt64:
    """Hash each band of ``bands`` equal ones of some signatures: [bands, documents]."""
    cut = signatures.reshape(len(signatures), bands, signatures.shape[1] // bands)
    hashes = np.zeros(cut.shape[:2], dtype=np.uint64)
    for row in range(cut.shape[2]):
        hashes *= STEP
        hashes += cut[:, :, row]
        mix(hashes)
    return hashes.T


def near_links(task: NearTask) -> pa.Table:
    """Link documents of the band's groups that are nearly equal."""
    band, signatures = task.band, _AllSignatures(task.corpus)
    files = [open_arrays(bands_path(path)) for path in task.corpus.paths]
    sorted_hashes = [hashes[band] for hashes, _ in files]

    def documents_of(first: int, stop: int) -> Iterator[Int64]:
        for (hashes, places), start in zip(files, task.corpus.starts, strict=True):
            yield places[band, _span(hashes[band], first, stop)].astype(np.int64) + start

    links = []
    for first, stop in _ranges(sorted_hashes, task.bucket):
        if stop - first == 1:
            links.append(_links_of_one(documents_of(first, stop), signatures, task.needed))
            continue
        hashes = np.concatenate([hashes[_span(hashes, first, stop)] for hashes in sorted_hashes])
        order = np.argsort(hashes, kind="stable")
        documents = np.concatenate(list(documents_of(first, stop)))[order]
        hashes = hashes[order]
        edges = np.flatnonzero(np.append(hashes[1:] != hashes[:-1], True)) + 1
        sizes = np.diff(edges, prepend=0)
        for run in _runs(sizes[sizes > 1], signatures.batch):
            begins, counts = (edges - sizes)[sizes > 1][run], sizes[sizes > 1][run]
            if counts[0] > signatures.batch:  # alone in its run
                whole = documents[begins[0] : begins[0] + counts[0]]
                links.append(_links_of_one([whole], signatures, task.needed))
                continue
            offsets = np.cumsum(counts) - counts
            chosen = documents[np.repeat(begins - offsets, counts) + np.arange(counts.sum())]
            links += _links_of_many(chosen, signatures.take(chosen), counts, task.needed)
    return _table(links)


def _links_of_many(documents: Int64, signatures: Signatures, sizes: Int64, needed: int) -> list[Int64]:
    """Link the documents of groups that stand one after another."""
    begins = np.cumsum(sizes) - sizes
    firsts = np.repeat(begins, sizes)
    linked = np.count_nonzero(signatures == signatures[firsts], axis=1) >= needed
    # Most groups are done at once: all are linked to the first, or there are just two that are not.
    done = np.add.reduceat(linked, begins) == sizes
    star = np.repeat(done, sizes) & (firsts != np.arange(len(firsts)))
    links = [np.stack([documents, documents[firsts]], axis=1)[star]]
    for begin, size in zip(begins[~done].tolist(), sizes[~done].tolist(), strict=True):
        if size == 2:
            continue
        group = Group(needed)
        for first in range(begin, begin + size, BLOCK):
            block = slice(first, min(first + BLOCK, begin + size))
            group.feed(documents[block], signatures[block])
        links.append(group.links())
    return links


def _links_of_one(documents: Iterable[Int64], signatures: _AllSignatures, needed: int) -> Int64:
    """Link the documents of one group, which come in pieces and in order, in bounded memory."""
    group, held = Group(needed), np.empty(0, dtype=np.int64)

    def feed(whole: Int64) -> None:
        for first in range(0, len(whole), signatures.batch):
            chosen = whole[first : first + signatures.batch]
            read = signatures.take(chosen)
            for start in range(0, len(chosen), BLOCK):
                group.feed(chosen[start : start + BLOCK], read[start : start + BLOCK])

    for piece in documents:
        held = np.concatenate([held, piece])
        whole = len(held) - len(held) % signatures.batch
        feed(held[:whole])
        held = held[whole:]
    feed(held)
    return group.links()


class _AllSignatures:
    """The signatures of all parts, of which some are read at a time."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._opened: dict[int, Signatures] = {}

    @cached_property
    def batch(self) -> int:
        """Documents to read together: some whole blocks."""
        width = int(self._of(0).shape[1])
        return max(1, GATHERED_BYTES // (4 * width * BLOCK)) * BLOCK

    def take(self, documents: Int64) -> Signatures:
        """Read the signatures of documents, by their numbers in the corpus."""
        starts = np.array(self._corpus.starts)
        parts = np.searchsorted(starts, documents, side="right") - 1
        result = np.empty((len(documents), self._of(0).shape[1]), dtype=np.uint32)
        for part in np.unique(parts).tolist():
            chosen = np.flatnonzero(parts == part)
            result[chosen] = self._of(part)[documents[chosen] - starts[part]]
        return result

    def _of(self, part: int) -> Signatures:
        if part not in self._opened:
            found = open_part(self._corpus.paths[part]).signatures
            assert found is not None  # write_bands has read it
            self._opened[part] = found
        return self._opened[part]


def _ranges(sorted_hashes: Sequence[UInt64], bucket: Bucket) -> Iterator[tuple[int, int]]:
    """Cut a bucket into ranges of at most its capacity, or of one hash."""
    spans = [_span(hashes, bucket.first, bucket.stop) for hashes in sorted_hashes]
    count = sum(span.stop - span.start for span in spans)
    if count <= bucket.capacity or bucket.stop - bucket.first == 1:
        if count > 1:
            yield bucket.first, bucket.stop
        return
    middle = (bucket.first + bucket.stop) // 2
    yield from _ranges(sorted_hashes, Bucket(bucket.first, middle, bucket.capacity))
    yield from _ranges(sorted_hashes, Bucket(middle, bucket.stop, bucket.capacity))


def _span(hashes: UInt64, first: int, stop: int) -> slice:
    """Where in sorted hashes those of a range are."""
    below = np.searchsorted(hashes, np.array([first, min(stop, 2**64 - 1)], dtype=np.uint64))
    return slice(int(below[0]), len(hashes) if stop == 2**64 else int(below[1]))


def _runs(sizes: NDArray[np.int64], limit: int) -> Iterator[slice]:
    """Cut groups into runs of at most ``limit`` documents, or of one larger group."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + limit, side="right")))
        yield slice(start, stop)
        start = stop


def _table(links: Sequence[Int64]) -> pa.Table:
    all_links = np.concatenate([np.empty((0, 2), dtype=np.int64), *links])
    return pa.table({"document": all_links[:, 0], "first": all_links[:, 1]})
