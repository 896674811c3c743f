"""Metrics beside the libraries that define them, and beside definitions written out."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from codex_ray.errors import ConfigError
from codex_ray.evaluate.metrics import (
    Answered,
    Example,
    distinct,
    edit_similarity,
    exact_match,
    find_metric,
    identifier_f1,
    levenshtein,
    pass_at,
    quasi_exact_match,
    token_f1,
)
from codex_ray.plugins import own

TEXTS = st.text(alphabet="ab cdé\n.", max_size=14)
WORDS = st.lists(st.sampled_from(["the", "cat", "sat", "on", "mat", "a", "dog"]), max_size=9).map(" ".join)
REAL = [
    ("the cat sat on the mat", ["a cat sat on the mat", "the cat is sitting on the mat"]),
    ("dogs bark at night", ["the dog barks at night"]),
    ("", ["something was expected"]),
    ("it rained all day in the north of the country", ["all day it rained in the north"]),
]


def answered(
    text: str | Sequence[str], references: Sequence[str], verdicts: Sequence[float] = ()
) -> Answered:
    texts = (text,) if isinstance(text, str) else tuple(text)
    return Answered(Example("x", "", tuple(references)), texts, tuple(verdicts))


def whole(name: str, pairs: Sequence[tuple[str, Sequence[str]]]) -> float:
    metric = find_metric(name)
    statistics = metric.statistics([answered(*pair) for pair in pairs])
    return float(metric.combine(statistics.sum(axis=0, keepdims=True))[0])


def slow_distance(one: str, other: str) -> int:
    """The definition: the least of taking out, putting in and replacing, letter by letter."""
    table = np.zeros((len(one) + 1, len(other) + 1), dtype=int)
    table[:, 0], table[0] = range(len(one) + 1), range(len(other) + 1)
    for row, column in itertools.product(range(1, len(one) + 1), range(1, len(other) + 1)):
        table[row, column] = min(
            table[row - 1, column] + 1,
            table[row, column - 1] + 1,
            table[row - 1, column - 1] + (one[row - 1] != other[column - 1]),
        )
    return int(table[-1, -1])


@settings(max_examples=40)
@given(TEXTS, TEXTS)
def test_levenshtein_is_its_definition(one: str, other: str) -> None:
    assert levenshtein(one, other) == slow_distance(one, other)


@settings(max_examples=40)
@given(TEXTS, TEXTS)
def test_edit_similarity_is_a_share_and_symmetric(one: str, other: str) -> None:
    found = edit_similarity(one, other)
    assert 0 <= found <= 1
    assert found == edit_similarity(other, one)
    assert (found == 1) == (one.strip() == other.strip())


def test_words_are_compared_as_squad_does() -> None:
    assert token_f1("The Eiffel Tower.", "eiffel tower") == 1
    assert quasi_exact_match("The Eiffel Tower.", "eiffel  tower") == 1
    assert exact_match(" Paris\n", "Paris") == 1
    assert exact_match("paris", "Paris") == 0
    assert token_f1("in Paris, France", "Paris") == pytest.approx(2 * (1 / 3) * 1 / (1 / 3 + 1))
    assert token_f1("", "") == 1
    assert token_f1("", "Paris") == 0
    assert quasi_exact_match("a.", "A") == 1 and quasi_exact_match("", "A") == 0 == token_f1("", "+")


@settings(max_examples=40)
@given(WORDS, WORDS)
def test_f1_is_that_of_precision_and_recall(one: str, other: str) -> None:
    left = [word for word in one.split() if word not in ("the", "a")] or one.split()
    right = [word for word in other.split() if word not in ("the", "a")] or other.split()
    pool, common = list(right), 0
    for word in left:
        if word in pool:
            pool.remove(word)
            common += 1
    if not left or not right:
        expected = float(left == right)
    elif not common:
        expected = 0.0
    else:
        precision, recall = common / len(left), common / len(right)
        expected = 2 * precision * recall / (precision + recall)
    assert token_f1(one, other) == pytest.approx(expected)


def test_identifiers_are_names_without_keywords() -> None:
    assert identifier_f1("for item in items:", "for item in things:") == pytest.approx(0.5)
    assert identifier_f1("return None", "return True") == 1  # no names in either
    assert identifier_f1(" ", "return True") == 0 and identifier_f1(" ", "") == 1


@settings(max_examples=40)
@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_share_of_draws_that_hold_a_pass(samples: int, data: st.DataObject) -> None:
    passed = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    draws = list(itertools.combinations([True] * passed + [False] * (samples - passed), k))
    assert pass_at(k, samples, passed) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_counts_whole_passes_and_refuses_too_few_samples() -> None:
    metric = find_metric("pass@2")
    rows = metric.statistics(
        [answered(["a", "b", "c"], [], [1.0, 0.5, 0.0]), answered(["a", "b"], [], [0.0, 0.0])]
    )
    assert rows.tolist() == [[pytest.approx(2 / 3), 1.0], [0.0, 1.0]]
    with pytest.raises(ConfigError, match="pass@2 needs 2 answers to each prompt and there are 1"):
        metric.statistics([answered("a", [], [1.0])])


def test_distinct_n_is_of_each_text() -> None:
    assert distinct("a b a b", 1) == 0.5
    assert distinct("a b a b", 2) == pytest.approx(2 / 3)
    assert distinct("a", 2) == 0


@pytest.mark.parametrize(("name", "kind"), [("bleu", sacrebleu.BLEU), ("chrf", sacrebleu.CHRF)])
def test_corpus_metrics_are_sacrebleus(name: str, kind: type) -> None:
    one_reference = [(text, references[:1]) for text, references in REAL]
    streams = [[references[0] for _, references in one_reference]]
    expected = kind().corpus_score([text for text, _ in one_reference], streams).score
    assert whole(name, one_reference) == pytest.approx(expected, abs=1e-9)
    several = [(text, references) for text, references in REAL if len(references) == 2]
    streams = [[references[place] for _, references in several] for place in range(2)]
    expected = kind().corpus_score([text for text, _ in several], streams).score
    assert whole(name, several) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=40)
@given(st.lists(st.tuples(WORDS, WORDS.filter(bool)), min_size=1, max_size=5))
def test_corpus_metrics_are_sacrebleus_on_any_words(pairs: list[tuple[str, str]]) -> None:
    texts, references = [text for text, _ in pairs], [[reference for _, reference in pairs]]
    rows = [(text, [reference]) for text, reference in pairs]
    assert whole("bleu", rows) == pytest.approx(
        sacrebleu.BLEU().corpus_score(texts, references).score, abs=1e-9
    )
    assert whole("chrf", rows) == pytest.approx(
        sacrebleu.CHRF().corpus_score(texts, references).score, abs=1e-9
    )


@pytest.mark.parametrize(
    ("name", "kind"), [("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")]
)
def test_rouge_is_rouge_scores_best_over_references(name: str, kind: str) -> None:
    scorer = RougeScorer([kind])
    expected = [
        max(scorer.score(reference, text)[kind].fmeasure for reference in them) for text, them in REAL
    ]
    assert whole(name, REAL) == pytest.approx(math.fsum(expected) / len(expected))


@settings(max_examples=40)
@given(WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_rouge_is_rouge_scores_of_any_words(text: str, references: list[str]) -> None:
    for name, kind in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        found = RougeScorer([kind]).score_multi(references, text)[kind].fmeasure
        assert whole(name, [(text, references)]) == pytest.approx(found)


def test_an_examples_answers_count_as_much_as_another_examples() -> None:
    several, one = answered(["yes", "no"], ["yes"]), answered("yes", ["yes"])
    rows = find_metric("exact_match").statistics([several, one])
    assert rows.tolist() == [[0.5, 1.0], [1.0, 1.0]]


def test_every_metric_of_one_example_is_its_row_alone() -> None:
    random.seed(0)
    for metric in map(find_metric, own("metrics")):
        rows = metric.statistics([answered(text, them, [0.25]) for text, them in REAL])
        assert rows.shape[0] == len(REAL) and np.isfinite(rows).all()
        singly = [metric.combine(row[None])[0] for row in rows]
        assert metric.combine(rows) == pytest.approx(singly)


def test_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"metric=exact_mach .*did you mean 'exact_match'"):
        find_metric("exact_mach")
    with pytest.raises(ConfigError, match=r"none of exact_match, .*pass@k"):
        find_metric("zzz")
