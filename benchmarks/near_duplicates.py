"""Near-deduplication beside datasketch's MinHash and MinHashLSH, in one run: same texts, shingles and bands.

    python -m benchmarks.near_duplicates [--documents N] [--turns N]

The texts are generated: words as frequent as in prose, and for 30 % of the documents a copy somewhere
later of which some words are others. The exact Jaccard similarity of every copy with its original is
known, and none is near the limit of 0.8: a copy is a near-duplicate from 0.85 on, and none below 0.75.

Both sides get the texts and end with the first document of each near-duplicate group: shingles of five
words, 112 permutations, 14 bands of 8 rows, candidates verified by the estimate of the whole signatures.
datasketch runs as its documentation shows it for many documents: one generator of signatures, a set of
shingles per document, its default hash. Ours includes hashing contents for exact duplicates and writing
and reading the files between its stages. Both run in this one process, taking turns.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.results import Figure, write_result
from codex_ray.config.corpus import Duplicates
from codex_ray.corpus.duplicates.find import find_duplicates
from codex_ray.corpus.duplicates.hashes import write_part
from codex_ray.corpus.duplicates.minhash import MinHash

SETTINGS = Duplicates(near=True)
COPIES, CLEAR = 0.3, 0.05  # share of documents with a copy; distance of all similarities from the limit
VOCABULARY, PARTS = 50_000, 4

Labels = NDArray[np.int64]


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description="Near-deduplication beside datasketch.")
    parser.add_argument("--documents", type=int, default=10_000, help="documents without their copies")
    parser.add_argument("--turns", type=int, default=3, help="measurements of each side")
    arguments = parser.parse_args()
    texts, originals = generate(arguments.documents)
    size = sum(map(len, texts)) / 1e6  # the texts are ASCII
    ours, theirs, scores = [], [], {}
    for turn in range(arguments.turns):
        speeds = {}
        for name, find in (("ours", _ours), ("datasketch", _datasketch)):
            began = time.perf_counter()
            labels = find(texts)
            speeds[name] = size / (time.perf_counter() - began)
            scores[name] = score(labels, originals)
        ours.append(speeds["ours"])
        theirs.append(speeds["datasketch"])
        print(f"turn {turn + 1}: ours {ours[-1]:.2f} MB/s, datasketch {theirs[-1]:.2f} MB/s", flush=True)
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    figures = {
        "near_duplicates_over_datasketch": Figure(statistics.median(ratios), "ratio", "higher"),
        "near_duplicates_mb_per_second": Figure(statistics.median(ours), "MB/s", "higher"),
        "datasketch_mb_per_second": Figure(statistics.median(theirs), "MB/s", "higher"),
        "near_duplicates_recall": Figure(scores["ours"][0], "share", "higher", aim=0.95),
        "near_duplicates_precision": Figure(scores["ours"][1], "share", "higher", aim=0.95),
        "datasketch_recall": Figure(scores["datasketch"][0], "share", "higher"),
        "datasketch_precision": Figure(scores["datasketch"][1], "share", "higher"),
    }
    extra = {"ratios": ratios, "documents": len(texts), "megabytes": size}
    print(write_result("near_duplicates", figures, extra=extra))


def generate(count: int) -> tuple[list[str], Labels]:
    """Return texts, and for each the document that it nearly duplicates; itself where it does not."""
    random = np.random.default_rng(1234)
    names = np.array([f"w{number:x}" for number in range(VOCABULARY)])
    documents: list[list[str]] = []
    copied: list[tuple[int, list[str], bool]] = []
    for number in range(count):
        length = int(np.clip(random.lognormal(6, 1), 40, 20_000))
        words = names[np.minimum(random.zipf(1.3, length), VOCABULARY) - 1].tolist()
        documents.append(words)
        near = None if random.random() < COPIES else False
        copy: list[str] = []
        while near is None:  # again, until it is clear what it is
            copy = list(words)
            for place in random.integers(0, length, int(random.uniform(0, 0.06) * length) + 1).tolist():
                copy[place] = f"x{random.integers(10**9):x}"
            similarity = _jaccard(words, copy)
            if abs(similarity - SETTINGS.similarity) >= CLEAR:
                near = similarity > SETTINGS.similarity
        if copy:
            copied.append((number, copy, near))
    originals = [*range(count), *(number if near else -1 for number, _, near in copied)]
    texts = [" ".join(words) for words in [*documents, *(copy for _, copy, _ in copied)]]
    labels = np.array(originals)
    return texts, np.where(labels < 0, np.arange(len(texts)), labels)


def score(found: Labels, originals: Labels) -> tuple[float, float]:
    """Return recall and precision: a document counts as found where its group is its original's."""
    real = originals != np.arange(len(originals))
    said = found != np.arange(len(found))
    right = int((real & (found == originals)).sum())
    return right / int(real.sum()), right / max(1, int(said.sum()))


def _ours(texts: Sequence[str]) -> Labels:
    with tempfile.TemporaryDirectory() as folder:
        minhash, paths = MinHash(SETTINGS), []
        for number in range(PARTS):
            part = texts[number * len(texts) // PARTS : (number + 1) * len(texts) // PARTS]
            hashed = b"".join(hashlib.sha256(text.encode()).digest() for text in part)
            paths.append(Path(folder) / str(number))
            digests = np.frombuffer(hashed, dtype=np.uint8).reshape(-1, 32)
            write_part(paths[-1], digests, minhash.signatures(part))
        return find_duplicates(paths, SETTINGS, _in_turn).first_near


def _in_turn(function: Callable[[Any], pa.Table], tasks: Sequence[Any], ordered: bool) -> Iterator[pa.Table]:
    return map(function, tasks)


def _datasketch(texts: Sequence[str]) -> Labels:
    from datasketch import MinHash as Peer
    from datasketch import MinHashLSH

    places = SETTINGS.bands * SETTINGS.rows
    limit = SETTINGS.similarity
    index = MinHashLSH(threshold=limit, num_perm=places, params=(SETTINGS.bands, SETTINGS.rows))
    signatures: list[Any] = []
    first = list(range(len(texts)))

    def root(document: int) -> int:
        while first[document] != document:
            first[document] = document = first[first[document]]
        return document

    for number, signature in enumerate(Peer.generator(map(_shingles, texts), num_perm=places)):
        for candidate in index.query(signature):
            if signatures[candidate].jaccard(signature) >= limit:
                low, high = sorted((root(candidate), root(number)))
                first[high] = low
        index.insert(number, signature)
        signatures.append(signature)
    return np.array([root(number) for number in range(len(texts))])


def _shingles(text: str) -> set[bytes]:
    words, length = re.findall("[a-z0-9]+", text.lower()), SETTINGS.shingle_words
    last = max(1, len(words) - length + 1)
    return {" ".join(words[place : place + length]).encode() for place in range(last)}


def _jaccard(left: list[str], right: list[str]) -> float:
    one, other = _shingles(" ".join(left)), _shingles(" ".join(right))
    return len(one & other) / len(one | other)


if __name__ == "__main__":
    main()
