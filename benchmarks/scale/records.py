"""JSON Lines of documents of which it is known what each is: new, a copy, nearly a copy, or no text.

Every document is a pure function of the seed and its place, so copies are written wherever they fall
without anything being held, and the truth is two numbers per record. Words are drawn as often as they
occur in this Python's standard library. A near copy has other words in some places; its exact Jaccard
similarity with its original, in shingles of five words, is at least 0.85, that of an unlike one at most
0.75, so nothing depends on how the limit of 0.8 is estimated.
"""

from __future__ import annotations

import gzip
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from codex_ray.corpus.cleaning.chain import Cleaned
from codex_ray.corpus.reading import read_texts

SEED = 1234
LINE_BYTES = 64 * 2**10  # the limit that the over-long lines exceed
SHARES = {"exact": 0.20, "near": 0.10, "unlike": 0.02}
BAD = {  # of each 1 %; what becomes of it
    "invalid_utf8": "not UTF-8",
    "nul": "binary",
    "surrogate": "lone surrogate",
    "broken": "not JSON",
    "no_column": "no text",
    "null": "no text",
    "number": "no text",
    "long_line": "too large",
    "empty": "length/too_short",
}
BAD_SHARE = 0.01
KINDS = ("original", *SHARES, *BAD)
FILES, GZIPPED, ZSTANDARD = 16, (3, 9), (5, 12)
VOCABULARY, POOL, RARE = 30_000, 2**22, 10**9
SHORTEST, LONGEST = 100, 6000  # words
RECORD_BYTES = 4300  # about, of one record: how many make a size
SHINGLE, NEAR, UNLIKE = 5, 0.85, 0.75
LINE_WORDS = 15

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Truth:
    """What each record is, in order: a place in ``KINDS``, and the record that it copies (or itself)."""

    kinds: NDArray[np.uint8]
    originals: Int64

    def of(self, kind: str) -> NDArray[np.bool_]:
        """Flag the records of a kind."""
        return np.equal(self.kinds, KINDS.index(kind))

    @cached_property
    def documents(self) -> NDArray[np.bool_]:
        """The records that are text."""
        return self.kinds <= KINDS.index("unlike")

    def first(self, *kinds: str) -> Int64:
        """Return for each record the first of its group, where ``kinds`` are in their originals' groups."""
        joined = np.isin(self.kinds, [KINDS.index(kind) for kind in ("original", *kinds)])
        own = np.arange(len(self.kinds))
        roots = np.where(joined, self.originals, own)
        firsts = own.copy()
        np.minimum.at(firsts, roots[joined], own[joined])
        return np.where(joined, firsts[roots], own)


def plan(megabytes: int) -> Truth:
    """Decide what each record of a source of about that size is."""
    count = max(400, megabytes * 10**6 // RECORD_BYTES)
    random = np.random.default_rng(SEED)
    kinds = np.zeros(count, dtype=np.uint8)
    shares = SHARES | dict.fromkeys(BAD, BAD_SHARE)
    numbers = [round(share * count) for share in shares.values()]
    kinds[: sum(numbers)] = np.repeat(np.arange(1, len(KINDS), dtype=np.uint8), numbers)
    random.shuffle(kinds)
    originals = np.arange(count)
    free = np.flatnonzero(kinds == 0)
    copied, resembled = free[: len(free) // 2], free[len(free) // 2 :]
    for kind, chosen in (("exact", copied), ("near", copied), ("unlike", resembled)):
        places = np.flatnonzero(kinds == KINDS.index(kind))
        originals[places] = random.choice(chosen, len(places))
    return Truth(kinds, originals)


def write_records(folder: Path, truth: Truth, processes: int) -> int:
    """Write the files of the source; returns their bytes."""
    folder.mkdir(parents=True)
    bounds = np.linspace(0, len(truth.kinds), FILES + 1).astype(int).tolist()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting = [
            pool.submit(_write, folder, number, first, truth.kinds[first:last], truth.originals[first:last])
            for number, (first, last) in enumerate(pairwise(bounds))
        ]
        return sum(each.result() for each in waiting)


def _write(folder: Path, number: int, first: int, kinds: NDArray[np.uint8], originals: Int64) -> int:
    path = folder / f"records-{number:02d}.jsonl"
    if number in GZIPPED:
        path = path.with_name(path.name + ".gz")
    elif number in ZSTANDARD:
        path = path.with_name(path.name + ".zst")
    size = 0
    with _open(path) as stream:
        for place, (kind, original) in enumerate(zip(kinds.tolist(), originals.tolist(), strict=True)):
            line = _line(KINDS[kind], first + place, original) + b"\n"
            size += len(line)
            stream.write(line)
    return size


def _open(path: Path) -> Any:
    if path.suffix == ".gz":
        return gzip.open(path, "wb", compresslevel=1)
    if path.suffix == ".zst":
        return io.BufferedWriter(zstandard.open(path, "wb"), 2**20)
    return path.open("wb")


def _line(kind: str, place: int, original: int) -> bytes:
    if kind in ("original", "exact"):
        return json.dumps({"text": _text(_words(original))}).encode()
    if kind in ("near", "unlike"):
        return json.dumps({"text": _text(_changed(place, original, kind))}).encode()
    return {
        "invalid_utf8": b'{"text": "record %d \xff\xfe is not in UTF-8"}',
        "nul": b'{"text": "record %d \\u0000 has a NUL character"}',
        "surrogate": b'{"text": "record %d \\ud800 has half of a character"}',
        "broken": b'{"text": "record %d is cut',
        "no_column": b'{"body": "record %d has no column text"}',
        "null": b'{"number": %d, "text": null}',
        "number": b'{"text": %d}',
        "long_line": b'{"text": "record %d ' + b"a" * LINE_BYTES + b'"}',
        "empty": b'{"number": %d, "text": ""}',
    }[kind] % place


def _words(place: int) -> NDArray[np.int64]:
    random = np.random.default_rng((SEED, place))
    length = int(np.clip(random.lognormal(6, 1), SHORTEST, LONGEST))
    _, pool = _vocabulary()
    return pool[random.integers(0, len(pool), length)]


def _changed(place: int, original: int, kind: str) -> NDArray[np.int64]:
    """Return the words of a document with others in some places, until it is clear what it is."""
    words = _words(original)
    random = np.random.default_rng((SEED, place, 1))
    low, high = (0.0, 0.016) if kind == "near" else (0.03, 0.06)
    while True:
        copy = words.copy()
        places = random.integers(0, len(words), max(1, int(random.uniform(low, high) * len(words))))
        copy[places] = VOCABULARY + random.integers(0, RARE, len(places))
        similarity = jaccard(words, copy)
        if similarity >= NEAR if kind == "near" else similarity <= UNLIKE:
            return copy


def jaccard(left: NDArray[np.int64], right: NDArray[np.int64]) -> float:
    """Return the Jaccard similarity of two documents in shingles of five words."""
    one, other = _shingles(left), _shingles(right)
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def _shingles(words: NDArray[np.int64]) -> NDArray[np.uint64]:
    hashed = words.astype(np.uint64)
    found = np.zeros(len(words) - SHINGLE + 1, dtype=np.uint64)
    for place in range(SHINGLE):
        found = found * np.uint64(0x9E3779B97F4A7C15) + hashed[place : place + len(found)] + np.uint64(1)
    return np.unique(found)


def _text(words: NDArray[np.int64]) -> str:
    names, _ = _vocabulary()
    spelt = [names[word] if word < VOCABULARY else f"x{word - VOCABULARY:x}" for word in words.tolist()]
    lines = (" ".join(spelt[start : start + LINE_WORDS]) for start in range(0, len(spelt), LINE_WORDS))
    return ".\n".join(lines) + "."


@lru_cache(maxsize=1)
def _vocabulary() -> tuple[list[str], NDArray[np.int64]]:
    """Return the words, and a pool in which each is as often as in the standard library."""
    counts: Counter[str] = Counter()
    for text in _library():
        counts.update(re.findall(r"[a-z]{2,12}", text))
    known = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:VOCABULARY]
    weights = np.array([count for _, count in known], dtype=np.float64)
    random = np.random.default_rng(SEED)
    return [word for word, _ in known], random.choice(len(known), POOL, p=weights / weights.sum())


def _library() -> Iterator[str]:
    for item in read_texts("stdlib", [".py"]):
        if isinstance(item, Cleaned):
            yield item.text.lower()
