"""Which documents of a whole corpus are there more than once.

Documents with equal content hashes are exact duplicates. Of the others, two are linked if they share a
band of their signatures (locality-sensitive hashing, Indyk and Motwani, 1998) and at least
``similarity`` of all places of the signatures are equal; a near-duplicate group is what is linked, also
through others. The first document in the global order stands for its group.

The share of documents of Jaccard similarity s that meet in a band is 1 - (1 - s^rows)^bands, and the
estimate from n places has the standard deviation sqrt(s (1 - s) / n): with the default 14 bands of 8
rows and a similarity of 0.8, pairs at 0.9 are linked with probability 0.999 and pairs at 0.7 with 0.01.

The comparing is done by tasks over buckets of the hashes (see ``exchange``), each in bounded memory; the
driver holds two numbers per document, and the links of one task at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from codex_ray.config.corpus import Duplicates
from codex_ray.corpus.duplicates.exchange import (
    BandsTask,
    Bucket,
    Corpus,
    ExactTask,
    NearTask,
    bands_path,
    exact_links,
    near_links,
    write_bands,
)
from codex_ray.corpus.duplicates.group import Int64
from codex_ray.corpus.duplicates.hashes import open_part

HELD_BYTES = 192 * 2**20  # what a task holds of its bucket; signatures come on top, some 60 MiB at most
EXACT_BYTES, NEAR_BYTES = 160, 64  # held per document of a bucket, copies for sorting included

Run = Callable[[Callable[[Any], pa.Table], Sequence[Any], bool], Iterator[pa.Table]]


@dataclass(frozen=True)
class Labels:
    """What each document of the corpus repeats, by numbers in the global order.

    Attributes:
        first_exact: the first document with the same content; itself where it is the first.
        first_near: the first document of its near-duplicate group; itself where it is the first. An exact
            duplicate is in the group of the document that it repeats.
    """

    first_exact: Int64
    first_near: Int64


def find_duplicates(parts: Sequence[Path], settings: Duplicates, run: Run) -> Labels:
    """Label every document: parts in order, documents in their part's order.

    While it runs, and where near-duplicates are wanted, a file beside each part holds its sorted bands.

    Args:
        parts: files of ``write_part``; tasks must find them under the same paths.
        settings: whether near-duplicates are wanted, and how alike they are. Exact ones are always labelled.
        run: applies a function to tasks, in any order if its third argument is false; yields the tables.

    Raises:
        CodexRayError: a part's file is damaged, or has other signatures than the settings ask for.
    """
    repeats: list[Int64] = []
    starts = [0]
    for path in parts:
        part = open_part(path)
        repeats.append(part.repeats.astype(np.int64) + starts[-1])
        starts.append(starts[-1] + part.documents)
    corpus = Corpus(tuple(parts), tuple(starts[:-1]))
    first_exact = np.arange(starts[-1])
    tasks = [ExactTask(corpus, bucket) for bucket in _buckets(len(first_exact), EXACT_BYTES)]
    for table in run(exact_links, tasks, False):
        first_exact[table["document"].to_numpy()] = table["first"].to_numpy()
    for pairs in repeats:
        first_exact[pairs[:, 0]] = first_exact[pairs[:, 1]]
    if not settings.near:
        return Labels(first_exact, first_exact.copy())
    return Labels(first_exact, _near(corpus, starts, first_exact, settings, run)[first_exact])


def _near(corpus: Corpus, starts: Sequence[int], first_exact: Int64, settings: Duplicates, run: Run) -> Int64:
    """Return the first of the near-duplicate group of each document that repeats none exactly."""
    unique = first_exact == np.arange(len(first_exact))
    sorting = [
        BandsTask(path, np.packbits(unique[start:stop]).tobytes(), settings.bands, settings.rows)
        for path, (start, stop) in zip(corpus.paths, pairwise(starts), strict=True)
    ]
    needed = max(1, ceil(settings.similarity * settings.bands * settings.rows - 1e-9))
    tasks = [
        NearTask(corpus, bucket, band, needed)
        for band in range(settings.bands)
        for bucket in _buckets(int(unique.sum()), NEAR_BYTES)
    ]
    roots = np.arange(len(first_exact))
    with ExitStack() as files:
        for path in corpus.paths:
            files.callback(bands_path(path).unlink, missing_ok=True)
        for _ in run(write_bands, sorting, False):
            pass
        for table in run(near_links, tasks, False):
            unite(roots, table["document"].to_numpy(), table["first"].to_numpy())
    return _find(roots, np.arange(len(roots)))


def unite(roots: Int64, left: Int64, right: Int64) -> None:
    """Unite the groups of each pair, in place: a forest in which each parent is an earlier document.

    Whatever the order of the pairs, the root of a group is its first document.
    """
    while len(left):
        left, right = _find(roots, left), _find(roots, right)
        apart = left != right
        left, right = left[apart], right[apart]
        low, high = np.minimum(left, right), np.maximum(left, right)
        np.minimum.at(roots, high, low)


def _find(roots: Int64, documents: Int64) -> Int64:
    """Return the root of each document, and shorten the paths to them."""
    found = roots[documents]
    while (higher := roots[found] != found).any():
        found[higher] = roots[found[higher]]
    roots[documents] = found
    return found


def _buckets(documents: int, bytes_each: int) -> list[Bucket]:
    """Cut the 64-bit hashes by their leading bits into buckets of about ``HELD_BYTES``."""
    capacity = max(1, HELD_BYTES // bytes_each)
    count = 1 << max(0, ceil(documents / capacity) - 1).bit_length()
    width = 2**64 // count
    return [Bucket(number * width, (number + 1) * width, capacity) for number in range(count)]
