"""Gopher's rules on quality and on repetition (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1).

Where the paper leaves room, datatrove 0.10.1 is followed, whose output FineWeb is: words of nothing but
symbols are not counted as words of a document, the most frequent n-gram is compared even when it
appears once, and repeated n-grams are counted without overlap.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np

from codex_ray.corpus.cleaning.words import ALPHABETIC, NAMED, STOP_WORDS, Integers, Keys, View
from codex_ray.corpus.raw import Dropped

MIN_WORDS, MAX_WORDS = 50, 100_000
MIN_MEAN_LENGTH, MAX_MEAN_LENGTH = 3.0, 10.0
MAX_SYMBOLS = 0.1
MAX_BULLET_LINES, MAX_ELLIPSIS_LINES = 0.9, 0.3
MIN_ALPHABETIC = 0.8
MIN_STOP_WORDS = 2

MAX_REPEATED, MAX_REPEATED_CHARACTERS = 0.3, 0.2
TOP_NGRAMS = {2: 0.20, 3: 0.18, 4: 0.16}
REPEATED_NGRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}

_PARAGRAPHS = re.compile(r"\n{2,}")
_LINES = re.compile(r"\n+")
_LOW = np.uint64(0xFFFF)
_BASE = np.uint64(0x9E3779B97F4A7C15)


def above(rule: str, seen: float, bound: float) -> Dropped | None:
    """Drop by ``rule`` when what was seen is above the bound."""
    return Dropped(rule, f"{seen:.4g} > {bound:g}") if seen > bound else None


def below(rule: str, seen: float, bound: float) -> Dropped | None:
    """Drop by ``rule`` when what was seen is below the bound."""
    return Dropped(rule, f"{seen:.4g} < {bound:g}") if seen < bound else None


def quality(view: View) -> Dropped | None:
    """Judge a text by the words it is made of; returns the first rule it breaks."""
    return next((dropped for dropped in _quality(view) if dropped), None)


def _quality(view: View) -> Iterator[Dropped | None]:
    named = (view.flags & NAMED) != 0
    count = int(np.count_nonzero(named))
    yield below("gopher_quality/min_words", count, MIN_WORDS)
    yield above("gopher_quality/max_words", count, MAX_WORDS)
    mean = int(view.lengths[named].sum()) / count
    yield below("gopher_quality/mean_word_length", mean, MIN_MEAN_LENGTH)
    yield above("gopher_quality/mean_word_length", mean, MAX_MEAN_LENGTH)
    text, words = view.text, len(view.numbers)
    yield above("gopher_quality/hash_marks", text.count("#") / words, MAX_SYMBOLS)
    yield above("gopher_quality/ellipses", (text.count("...") + text.count("…")) / words, MAX_SYMBOLS)
    lines = view.lines
    if "•" in text or "-" in text:
        bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines)
        yield above("gopher_quality/bullet_lines", bullets / len(lines), MAX_BULLET_LINES)
    if "..." in text or "…" in text:
        cut = sum(line.rstrip().endswith(("...", "…")) for line in lines)
        yield above("gopher_quality/ellipsis_lines", cut / len(lines), MAX_ELLIPSIS_LINES)
    alphabetic = int(np.count_nonzero(view.flags & ALPHABETIC))
    yield below("gopher_quality/alphabetic_words", alphabetic / words, MIN_ALPHABETIC)
    stop = np.bincount(view.numbers[view.numbers < len(STOP_WORDS)], minlength=1)
    yield below("gopher_quality/stop_words", int(np.count_nonzero(stop)), MIN_STOP_WORDS)


def repetition(view: View) -> Dropped | None:
    """Judge a text by how often it says the same; returns the first rule it breaks."""
    return next((dropped for dropped in _repetition(view) if dropped), None)


def _repetition(view: View) -> Iterator[Dropped | None]:
    text = view.text
    if not text:
        yield Dropped("gopher_repetition/empty", "no text")
        return
    for kind, parts in (
        ("paragraph", _PARAGRAPHS.split(text.strip())),
        ("line", _LINES.split(text)),
    ):
        count, characters = repeated(parts)
        yield above(f"gopher_repetition/repeated_{kind}s", count / len(parts), MAX_REPEATED)
        yield above(
            f"gopher_repetition/repeated_{kind}_characters", characters / len(text), MAX_REPEATED_CHARACTERS
        )
    yield from _ngrams(view)


def repeated(parts: Iterable[str]) -> tuple[int, int]:
    """Count the parts that were there before, and their characters."""
    seen: set[str] = set()
    count = characters = 0
    for part in parts:
        if part in seen:
            count += 1
            characters += len(part)
        else:
            seen.add(part)
    return count, characters


def _ngrams(view: View) -> Iterator[Dropped | None]:
    """Compare the n-grams, by their 64-bit hashes.

    Sorted hashes give an upper bound on what repeats: the characters of all second and later
    occurrences, overlaps counted again. Most texts stay below the thresholds with that alone, and for
    all longer n-grams too, since a longer n-gram repeats only where shorter ones do. The slow exact
    count is made for the others.
    """
    size = len(view.text)
    keys, lengths, often = view.hashes, view.lengths, size
    for n in range(2, 11):
        if len(view.numbers) < n:
            return
        keys = keys[:-1] * _BASE + view.hashes[n - 1 :]
        lengths = lengths[:-1] + view.lengths[n - 1 :]
        if n in TOP_NGRAMS:
            spaced = lengths + (n - 1)
            if often * int(spaced.max()) <= TOP_NGRAMS[n] * size:
                continue
            often, most = _most_of_one(keys, spaced)
            if most > TOP_NGRAMS[n] * size:
                yield above(f"gopher_repetition/top_{n}_gram", _top(keys, spaced) / size, TOP_NGRAMS[n])
        elif n in REPEATED_NGRAMS:
            most = _most_repeated(keys, lengths)
            if most <= REPEATED_NGRAMS[10] * size:  # the lowest of the thresholds
                return
            if most > REPEATED_NGRAMS[n] * size:
                seen = _repeated_ngrams(keys, lengths, n) / size
                yield above(f"gopher_repetition/repeated_{n}_grams", seen, REPEATED_NGRAMS[n])


def _packed(keys: Keys, lengths: Integers) -> Keys:
    """Sort the n-grams' hashes, each with its length in its lowest bits."""
    packed: Keys = (keys & ~_LOW) | np.minimum(lengths, 0xFFFF).astype(np.uint64)
    packed.sort()
    return packed


def _most_of_one(keys: Keys, lengths: Integers) -> tuple[int, int]:
    """Return how often any n-gram is there at most, and how many characters one has in all at most."""
    if int(lengths.max()) >= 0xFFFF:
        return len(keys), int(lengths.max()) * len(keys)
    packed = _packed(keys, lengths)
    edges = np.flatnonzero(packed[1:] != packed[:-1])
    starts = np.concatenate([[0], edges + 1])
    counts = np.concatenate([edges + 1, [len(packed)]]) - starts
    characters = counts * (packed[starts] & _LOW).astype(np.int64)
    return int(counts.max()), int(characters.max())


def _most_repeated(keys: Keys, lengths: Integers) -> int:
    if int(lengths.max()) >= 0xFFFF:
        return int(lengths.sum())
    packed = _packed(keys, lengths)
    again = packed[1:][packed[1:] == packed[:-1]]
    return int((again & _LOW).sum())


def _top(keys: Keys, lengths: Integers) -> int:
    """Count the characters of all occurrences of the most frequent n-gram, the earliest of equals."""
    _, first, counts = np.unique(keys, return_index=True, return_counts=True)
    place = int(first[counts == counts.max()].min())
    return int(counts.max()) * int(lengths[place])


def _repeated_ngrams(keys: Keys, lengths: Integers, n: int) -> int:
    """Count the characters of n-grams that were there before, without overlap, from the start on."""
    ordered = np.sort(keys)
    double = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(double):
        return 0
    nearest = double[np.minimum(np.searchsorted(double, keys), len(double) - 1)]
    places = np.flatnonzero(nearest == keys)  # the others are there once and decide nothing
    seen: set[int] = set()
    characters = free = 0
    for place, key, length in zip(
        places.tolist(), keys[places].tolist(), lengths[places].tolist(), strict=True
    ):
        if place < free:
            continue
        if key in seen:
            characters += length
            free = place + n
        else:
            seen.add(key)
    return characters
