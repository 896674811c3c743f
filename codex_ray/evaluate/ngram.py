"""An n-gram baseline on the same tokens: interpolated Kneser-Ney with three discounts an order.

Chen and Goodman (1998), section 3: the highest order uses counts, lower ones the number of distinct tokens
seen before an n-gram (its plain count where it begins a document), and the lowest mixes with the uniform
distribution, so every token has a probability and they sum to one.

The n-grams form a trie in sorted arrays. A node of level ``n`` is an n-gram; its key is its parent's number
(the n-gram without its last token) times the vocabulary size plus its last token, so any vocabulary fits
64 bits at any order. Level 1 has a node for every token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codex_ray.errors import CodexRayError

Keys = NDArray[np.int64]
Numbers = NDArray[np.int32]
Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ids = Sequence[int] | NDArray[Any]

SMALLEST_DISCOUNT = 0.05
"""Keeps probability for unseen tokens where too little text makes an estimated discount vanish."""


@dataclass(frozen=True)
class _Level:
    """The n-grams of one length, as predictions of their last token and as contexts of the next.

    ``weights`` is what each n-gram's (adjusted) count is worth after discounting. For the n-grams as
    contexts, ``totals`` is the sum of the counts that follow and ``backoff`` the share left to the shorter
    context.
    """

    keys: Keys
    weights: Singles
    totals: Floats
    backoff: Floats


class NgramModel:
    """Next-token probabilities from counts; make one with :func:`train_ngram`."""

    def __init__(self, levels: list[_Level], lowest: Floats) -> None:
        self._levels = levels
        self._lowest = lowest

    @property
    def order(self) -> int:
        """Tokens in the longest n-gram: one more than the longest context."""
        return len(self._levels)

    @property
    def vocabulary_size(self) -> int:
        """Tokens that have a probability."""
        return len(self._lowest)

    def log_probabilities(self, sequences: Sequence[Ids]) -> list[Floats]:
        """Return the natural log-probability of every id after the first, per sequence."""
        ids, depths = _flatten(sequences)
        probabilities = self._lowest[ids]
        nodes = ids
        for size, (parent, level) in enumerate(zip(self._levels, self._levels[1:], strict=False), start=2):
            contexts = np.where(depths >= size - 1, _before(nodes), -1)
            nodes = _find(level.keys, contexts, ids, self.vocabulary_size)
            known = np.flatnonzero((contexts >= 0) & (parent.totals[contexts] > 0))
            above, found = contexts[known], nodes[known]
            seen = np.where(found >= 0, level.weights[found], 0.0) / parent.totals[above]
            probabilities[known] = seen + parent.backoff[above] * probabilities[known]
        ends = np.cumsum([len(sequence) for sequence in sequences])
        return [part[1:] for part in np.split(np.log(probabilities), ends[:-1])]

    def distribution(self, context: Sequence[int]) -> Floats:
        """Return the probability of every token after ``context``; only its last ``order - 1`` ids count."""
        probabilities = self._lowest.copy()
        recent = list(context[-(self.order - 1) :]) if self.order > 1 else []
        for size in range(1, len(recent) + 1):
            node = self._node(recent[-size:])
            level = self._levels[size - 1]
            if node < 0 or level.totals[node] == 0:
                break
            children = self._levels[size]
            lowest_key = node * self.vocabulary_size
            first, last = np.searchsorted(children.keys, [lowest_key, lowest_key + self.vocabulary_size])
            probabilities *= level.backoff[node]
            tokens = children.keys[first:last] - lowest_key
            probabilities[tokens] += children.weights[first:last] / level.totals[node]
        return probabilities

    def _node(self, ngram: Sequence[int]) -> int:
        node = int(ngram[0])
        for level, token in zip(self._levels[1:], ngram[1:], strict=False):
            key = node * self.vocabulary_size + int(token)
            node = int(np.searchsorted(level.keys, key))
            if node == len(level.keys) or level.keys[node] != key:
                return -1
        return node


def train_ngram(
    sequences: Iterable[Ids], *, order: int, vocabulary_size: int, max_tokens: int = 2**24
) -> NgramModel:
    """Count n-grams and estimate the model; about 100 bytes of memory a token.

    Each sequence begins with an id that is context only (beginning of text); no n-gram crosses sequences.

    Args:
        sequences: token ids of the training documents.
        order: longest n-gram, at least 1.
        vocabulary_size: one more than the largest id.
        max_tokens: sequences after the first so many tokens are not read.

    Raises:
        CodexRayError: no tokens, or an id outside the vocabulary.
    """
    ids, depths = _flatten(_first(sequences, max_tokens))
    if not (depths > 0).any():
        raise CodexRayError(
            "there are no training tokens to count n-grams in; give a corpus with a train split"
        )
    if ids.min() < 0 or ids.max() >= vocabulary_size:
        raise CodexRayError(
            f"training token {ids.max()} is outside the vocabulary of {vocabulary_size}; "
            "use the tokenizer the corpus was prepared with"
        )
    keys: list[Keys] = [np.arange(vocabulary_size)]
    counts: list[Numbers] = [np.bincount(ids[depths > 0], minlength=vocabulary_size).astype(np.int32)]
    nodes = ids
    for size in range(2, order + 1):
        places = np.flatnonzero(depths >= size - 1)
        if not len(places):
            break
        ngrams = nodes[places - 1].astype(np.int64) * vocabulary_size + ids[places]
        unique, numbers, count, first_seen = _group(ngrams)
        # An n-gram's last token is its suffix's last token too, so the place links the two.
        left = np.bincount(nodes[places[first_seen]], minlength=len(keys[-1])).astype(np.int32)
        counts[-1] = np.where(left > 0, left, counts[-1])
        keys.append(unique)
        counts.append(count)
        nodes = np.full(len(ids), -1, dtype=np.int32)
        nodes[places] = numbers
    return _estimate(keys, counts)


def _estimate(keys: list[Keys], counts: list[Numbers]) -> NgramModel:
    """Discount the counts of each order and add up what each context has."""
    vocabulary_size = len(keys[0])
    taken, weights = _discount(counts[0])
    lowest = (weights.astype(np.float64) + taken.sum(dtype=np.float64) / vocabulary_size) / counts[0].sum()
    levels: list[_Level] = []
    for key, next_key, next_count in zip(keys, keys[1:], counts[1:], strict=False):
        parents = next_key // vocabulary_size
        taken, next_weights = _discount(next_count)
        totals: Floats = np.bincount(parents, next_count, minlength=len(key)).astype(np.float64)
        left_over = np.bincount(parents, taken, minlength=len(key))
        backoff = np.divide(left_over, totals, out=np.ones_like(totals), where=totals > 0)
        levels.append(_Level(key, weights, totals, backoff))
        weights = next_weights
    nothing: Floats = np.zeros(0)
    return NgramModel([*levels, _Level(keys[-1], weights, nothing, nothing)], lowest)


def _discount(counts: Numbers) -> tuple[Singles, Singles]:
    """Return what is taken from each count and what is left of it (Chen and Goodman's equation 26)."""
    one, two, three, four = (max(int((counts == count).sum()), 1) for count in (1, 2, 3, 4))
    share = one / (one + 2 * two)
    estimated = [1 - 2 * share * two / one, 2 - 3 * share * three / two, 3 - 4 * share * four / three]
    amounts = [min(max(amount, SMALLEST_DISCOUNT), count) for count, amount in enumerate(estimated, start=1)]
    taken = np.array([0.0, *amounts], dtype=np.float32)[np.minimum(counts, 3)]
    return taken, counts.astype(np.float32) - taken


def _group(values: Keys) -> tuple[Keys, Numbers, Numbers, Keys]:
    """Return the sorted unique values, each value's number among them, their counts, and a place of each."""
    order = np.argsort(values)
    ordered = values[order]
    is_new = np.ones(len(values), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=is_new[1:])
    starts = np.flatnonzero(is_new)
    numbers = np.empty(len(values), dtype=np.int32)
    numbers[order] = np.cumsum(is_new, dtype=np.int32) - 1
    counts = np.diff(np.append(starts, len(values))).astype(np.int32)
    return ordered[starts], numbers, counts, order[starts]


def _find(keys: Keys, parents: Numbers, tokens: Numbers, vocabulary_size: int) -> Numbers:
    """Return the node of each (parent, token), -1 where there is none."""
    wanted = parents.astype(np.int64) * vocabulary_size + tokens
    places = np.searchsorted(keys, wanted)
    places[places == len(keys)] = 0
    return np.where((parents >= 0) & (keys[places] == wanted), places, -1).astype(np.int32)


def _before(nodes: Numbers) -> Numbers:
    """Return at each place the node that ends just before it."""
    return np.concatenate([np.full(1, -1, dtype=np.int32), nodes[:-1]])


def _flatten(sequences: Sequence[Ids]) -> tuple[Numbers, Numbers]:
    """Return all ids in a row, and each one's place within its sequence."""
    if not any(len(sequence) for sequence in sequences):
        return np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32)
    ids = np.concatenate([np.asarray(sequence, dtype=np.int32) for sequence in sequences])
    depths = np.concatenate([np.arange(len(sequence), dtype=np.int32) for sequence in sequences])
    return ids, depths


def _first(sequences: Iterable[Ids], max_tokens: int) -> list[Ids]:
    kept: list[Ids] = []
    read = 0
    for sequence in sequences:
        if read >= max_tokens:
            break
        kept.append(sequence)
        read += len(sequence)
    return kept
