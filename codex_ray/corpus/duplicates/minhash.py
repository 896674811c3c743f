"""MinHash signatures of documents: equal places of two signatures estimate how much the documents share.

The signature is the one of "Fast Similarity Sketching" (Dahlgaard, Knudsen and Thorup, FOCS 2017). In
round 0 every shingle falls into one place of the signature and the smallest hash of each place stays;
places still empty are filled by further rounds, each with fresh hashes of all shingles; from the round
numbered like the places on, every shingle falls into one given place, so that none stays empty. Each
place then holds the hash of a shingle drawn evenly from the document's, in the same way for every
document: the share of equal places is an unbiased estimate of the Jaccard similarity, and varies no more
than that of as many independent permutations. A long document takes one round, a short one about
``places * log(places) / shingles``: the cost per byte hardly depends on the number of places.

All arithmetic is on unsigned 64-bit integers; ``tests/golden/minhash.json`` pins the signatures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from codex_ray.config.corpus import Duplicates
from codex_ray.corpus.duplicates.words import UInt64, hash_words
from codex_ray.corpus.grouping import group_by_bytes

BATCH_CHARACTERS = 2**18  # what is hashed together: its arrays should stay in the processor's cache
EMPTY = np.uint32(2**32 - 1)
GOLDEN = 0x9E3779B97F4A7C15
STEP = np.uint64(0xA24BAED4963EE407)


class MinHash:
    """Signatures of documents as sets of shingles.

    A shingle is ``shingle_words`` successive words (see ``words``); a document with fewer words is one
    shingle of all of them, and an empty document is the shingle of no word.

    Args:
        settings: the length of a shingle, and bands times rows, the places of a signature.
    """

    def __init__(self, settings: Duplicates) -> None:
        self.shingle_words = settings.shingle_words
        self.places = settings.bands * settings.rows

    def signatures(self, texts: Sequence[str]) -> NDArray[np.uint32]:
        """Return the signatures of ``texts``: [documents, bands*rows]."""
        result = np.full((len(texts), self.places), EMPTY, dtype=np.uint32)
        for run in group_by_bytes([len(text) for text in texts], BATCH_CHARACTERS):
            shingles, counts = self._shingles(texts[run])
            self._fill(result[run], shingles, counts)
        return result

    def _shingles(self, texts: Sequence[str]) -> tuple[UInt64, NDArray[np.int64]]:
        """Return the hashes of all shingles, document after document, and how many each has."""
        length = self.shingle_words
        words, counts = hash_words(texts, few=length)
        if (counts < length).any():
            lacking = np.maximum(length - counts, 0)
            words = np.insert(words, np.repeat(np.cumsum(counts), lacking), 0)  # 0 stands for "no word"
            counts = counts + lacking
        stops = np.cumsum(counts)
        last = len(words) - length + 1
        hashes = words[:last].copy()
        for place in range(1, length):
            hashes *= STEP
            hashes += words[place : place + last]
        if length > 1:  # those that reach into the next document go
            across = (stops[:-1, None] - np.arange(1, length)).ravel()
            hashes = np.delete(hashes, across)
        return mix(hashes), counts - (length - 1)

    def _fill(self, signatures: NDArray[np.uint32], shingles: UInt64, counts: NDArray[np.int64]) -> None:
        """Fill the places of ``signatures`` (a view, all empty) round by round."""
        flat, places = signatures.reshape(-1), np.uint64(self.places)
        bases = np.repeat(np.arange(len(counts)) * self.places, counts)
        _lower(flat, bases + self._fall(shingles, places), shingles)
        for number in range(1, 2 * self.places):
            if number < 4 or number % 4 == 0:  # leaving out documents that are full is not worth every round
                unfilled = (signatures == EMPTY).any(axis=1) & (counts > 0)
                if not unfilled.any():
                    return
                kept = np.repeat(unfilled, counts)
                shingles, bases = shingles[kept], bases[kept]
                counts = np.where(unfilled, counts, 0)
            hashes = mix(shingles + np.uint64(number * GOLDEN % 2**64))
            fallen = self._fall(hashes, places) if number < self.places else number - self.places
            where = bases + fallen
            still_open = flat[where] == EMPTY
            _lower(flat, where[still_open], hashes[still_open])

    @staticmethod
    def _fall(hashes: UInt64, places: np.uint64) -> NDArray[np.int64]:
        """Return the place that the high half of each hash chooses."""
        return ((hashes >> np.uint64(32)) * places >> np.uint64(32)).astype(np.int64)


def _lower(flat: NDArray[np.uint32], where: NDArray[np.int64], hashes: UInt64) -> None:
    """Keep at each place the smallest low half of the hashes that fall there."""
    np.minimum.at(flat, where, hashes.astype(np.uint32))


def mix(values: UInt64) -> UInt64:
    """Finalise as splitmix64 does (Steele, Lea and Flood, 2014), in place: every bit depends on all."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values
