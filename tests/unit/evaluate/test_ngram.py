"""The n-gram baseline: proper probabilities, equal in both ways of asking, and better with order."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.errors import CodexRayError
from codex_ray.evaluate.ngram import NgramModel, train_ngram

VOCABULARY = 7
SEQUENCES = st.lists(
    st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=25).map(lambda ids: [0, *ids]),
    min_size=1,
    max_size=6,
)


def markov(seed: int, length: int) -> list[int]:
    """A sequence in which two tokens decide the next but for some noise."""
    random_ = random.Random(seed)
    ids = [0, 1, 2]
    while len(ids) < length:
        expected = 1 + (3 * ids[-1] + 5 * ids[-2]) % (VOCABULARY - 1)
        ids.append(expected if random_.random() < 0.8 else random_.randrange(1, VOCABULARY))
    return ids


@settings(max_examples=60)
@given(SEQUENCES, st.integers(1, 5), st.lists(st.integers(0, VOCABULARY - 1), max_size=7))
def test_probabilities_sum_to_one_after_any_context(
    sequences: list[list[int]], order: int, context: list[int]
) -> None:
    model = train_ngram(sequences, order=order, vocabulary_size=VOCABULARY)
    distribution = model.distribution(context)
    assert distribution.sum() == pytest.approx(1.0, abs=1e-6)
    assert distribution.min() > 0


@settings(max_examples=60)
@given(SEQUENCES, st.integers(1, 5), SEQUENCES)
def test_scoring_agrees_with_the_distribution(
    sequences: list[list[int]], order: int, measured: list[list[int]]
) -> None:
    model = train_ngram(sequences, order=order, vocabulary_size=VOCABULARY)
    for ids, scores in zip(measured, model.log_probabilities(measured), strict=True):
        one_by_one = [math.log(model.distribution(ids[:place])[ids[place]]) for place in range(1, len(ids))]
        assert scores == pytest.approx(one_by_one, abs=1e-6)


def kneser_ney(
    sequences: list[list[int]], context: list[int], discounts: dict[int, list[float]]
) -> np.ndarray:
    """The recursion of the paper with dictionaries, for a given order's discounts."""
    order = len(discounts)
    ngrams = {
        size: Counter(
            tuple(ids[end - size + 1 : end + 1])
            for ids in sequences
            for end in range(max(1, size - 1), len(ids))
        )
        for size in range(1, order + 1)
    }
    counts = {order: ngrams[order]}
    for size in range(1, order):
        left = Counter(ngram[1:] for ngram in ngrams[size + 1])
        counts[size] = Counter({ngram: left[ngram] or count for ngram, count in ngrams[size].items()})
    result = np.full(VOCABULARY, 1 / VOCABULARY)
    for size in range(1, order + 1):
        above = tuple(context[len(context) - size + 1 :])
        if len(above) < size - 1:
            break
        following = {ngram[-1]: count for ngram, count in counts[size].items() if ngram[:-1] == above}
        if not following:
            break
        taken = {token: discounts[size][min(count, 3)] for token, count in following.items()}
        result *= sum(taken.values()) / sum(following.values())
        for token, count in following.items():
            result[token] += (count - taken[token]) / sum(following.values())
    return result


def estimated(counts: Counter[tuple[int, ...]]) -> list[float]:
    n = [sum(count == times for count in counts.values()) for times in range(5)]
    share = n[1] / (n[1] + 2 * n[2])
    return [0.0, *(times - (times + 1) * share * n[times + 1] / n[times] for times in (1, 2, 3))]


def test_equal_to_the_recursion_of_the_paper() -> None:
    sequences = [markov(seed, 60) for seed in range(12)]
    bigrams = Counter(pair for ids in sequences for pair in itertools.pairwise(ids))
    trigrams = Counter(triple for ids in sequences for triple in zip(ids, ids[1:], ids[2:], strict=False))
    left = Counter(triple[1:] for triple in trigrams)
    adjusted = Counter({pair: left[pair] or count for pair, count in bigrams.items()})
    # Every token has followed every other, so the lowest order's discounts are the smallest allowed.
    unigrams = Counter({(token,): count for token, count in Counter(pair[1] for pair in bigrams).items()})
    assert min(unigrams.values()) > 3
    discounts = {1: [0.0, 0.0, 0.0, unigram_discount()], 2: estimated(adjusted), 3: estimated(trigrams)}
    assert all(
        0.05 < amount < times for size in (2, 3) for times, amount in enumerate(discounts[size]) if times
    )
    model = train_ngram(sequences, order=3, vocabulary_size=VOCABULARY)
    for context in ([0], [0, 1], [0, 1, 2], [3, 4], [5, 5, 5], [6, 1, 4]):
        expected = kneser_ney(sequences, context, discounts)
        assert model.distribution(context) == pytest.approx(expected, abs=1e-6), context


def unigram_discount() -> float:
    """Equation 26 where no count is 1, 2, 3 or 4, each taken as seen once."""
    return 3 - 4 * (1 / 3) * 1


def bits(model: NgramModel, sequences: list[list[int]]) -> float:
    scores = np.concatenate(model.log_probabilities(sequences))
    return float(-scores.mean() / math.log(2))


def test_a_longer_context_predicts_better() -> None:
    training = [markov(seed, 400) for seed in range(20)]
    held_out = [markov(seed, 400) for seed in range(100, 105)]
    measured = [
        bits(train_ngram(training, order=order, vocabulary_size=VOCABULARY), held_out) for order in (1, 2, 3)
    ]
    assert measured[0] > measured[2] + 0.5
    assert measured[1] > measured[2] + 0.3
    # 80 % of the tokens follow from two, the others are even: 1.31 bits.
    share = 0.8 + 0.2 / (VOCABULARY - 1)
    entropy = -share * math.log2(share) - (1 - share) * math.log2((1 - share) / (VOCABULARY - 2))
    assert measured[2] == pytest.approx(entropy, rel=0.05)


def test_only_the_first_tokens_are_read_where_there_are_too_many() -> None:
    few = train_ngram([markov(1, 50)], order=3, vocabulary_size=VOCABULARY)
    same = train_ngram([markov(1, 50), markov(2, 50)], order=3, vocabulary_size=VOCABULARY, max_tokens=40)
    assert same.distribution([0, 1]) == pytest.approx(few.distribution([0, 1]))


def test_no_tokens_and_foreign_tokens_are_refused() -> None:
    with pytest.raises(CodexRayError, match="no training tokens"):
        train_ngram([[0], [0]], order=3, vocabulary_size=VOCABULARY)
    with pytest.raises(CodexRayError, match="outside the vocabulary"):
        train_ngram([[0, VOCABULARY]], order=3, vocabulary_size=VOCABULARY)
