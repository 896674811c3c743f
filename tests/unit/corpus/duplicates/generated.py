"""Documents with known shingles, and duplicates found without a cluster."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codex_ray.config.corpus import Duplicates
from codex_ray.corpus.duplicates.find import Labels, find_duplicates
from codex_ray.corpus.duplicates.hashes import write_part
from codex_ray.corpus.duplicates.minhash import MinHash

NEAR = Duplicates(near=True)


def in_turn(function: Callable[[Any], pa.Table], tasks: Sequence[Any], ordered: bool) -> Iterator[pa.Table]:
    """Run tasks here; backwards where the order is free, so that nothing leans on it."""
    return map(function, tasks if ordered else list(reversed(tasks)))


def find(
    folder: Path,
    texts: Sequence[str],
    cuts: Sequence[int] = (),
    settings: Duplicates = NEAR,
    digests: NDArray[np.uint8] | None = None,
    signatures: NDArray[np.uint32] | None = None,
) -> Labels:
    """Write texts as parts cut at the given places, and find their duplicates."""
    if digests is None:
        hashed = b"".join(hashlib.sha256(text.encode()).digest() for text in texts)
        digests = np.frombuffer(hashed, dtype=np.uint8).reshape(-1, 32)
    if signatures is None and settings.near:
        signatures = MinHash(settings).signatures(texts)
    edges = [0, *sorted(cuts), len(digests)]
    paths = []
    for number, (start, stop) in enumerate(pairwise(edges)):
        paths.append(folder / f"{number:04d}.hashes")
        write_part(paths[-1], digests[start:stop], None if signatures is None else signatures[start:stop])
    labels = find_duplicates(paths, settings, in_turn)
    assert sorted(folder.iterdir()) == sorted(paths), "a file was left behind"
    return labels


def random_words(random: np.random.Generator, count: int) -> list[str]:
    """Return words as frequent as in prose, roughly: a few very often, most of them seldom."""
    return [f"w{word}" for word in np.minimum(random.zipf(1.3, count), 50_000)]


def edited(random: np.random.Generator, words: Sequence[str], edits: int) -> list[str]:
    """Return words of which some, anywhere, are others."""
    result = list(words)
    for place in random.integers(0, len(result), edits):
        result[place] = f"x{random.integers(10**9)}"
    return result


def jaccard(left: Sequence[str], right: Sequence[str], length: int = 5) -> float:
    """Return the similarity of two lists of words by their shingles, exactly."""
    one, other = (
        {tuple(words[place : place + length]) for place in range(len(words) - length + 1)}
        for words in (left, right)
    )
    return len(one & other) / len(one | other)
