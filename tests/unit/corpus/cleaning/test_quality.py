from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codex_ray.corpus.cleaning import gopher, web
from codex_ray.corpus.cleaning.rules import RULES
from codex_ray.corpus.cleaning.words import View, sentences, split_chunk
from codex_ray.corpus.raw import Dropped
from tests.unit.corpus.cleaning.generated import document

# What datatrove's filters, with their defaults, say of the generated documents.
GOLDEN = json.loads((Path(__file__).parents[3] / "golden" / "datatrove_quality.json").read_text())

Rules = Callable[[View], str | Dropped | None]
FAMILIES: dict[str, Rules] = {
    "gopher_quality": gopher.quality,
    "gopher_repetition": gopher.repetition,
    "c4": web.c4,
    "fineweb": web.fineweb,
}
PEER_NAMES = {
    "gopher_short_doc": "min_words",
    "gopher_long_doc": "max_words",
    "gopher_below_avg_threshold": "mean_word_length",
    "gopher_above_avg_threshold": "mean_word_length",
    "gopher_too_many_hashes": "hash_marks",
    "gopher_too_many_ellipsis": "ellipses",
    "gopher_too_many_bullets": "bullet_lines",
    "gopher_too_many_end_ellipsis": "ellipsis_lines",
    "gopher_below_alpha_threshold": "alphabetic_words",
    "gopher_enough_stop_words": "stop_words",
    "dup_para_frac": "repeated_paragraphs",
    "dup_para_char_frac": "repeated_paragraph_characters",
    "dup_line_frac": "repeated_lines",
    "dup_line_char_frac": "repeated_line_characters",
    "too_few_sentences": "min_sentences",
    "line_punct_ratio": "ended_lines",
    "short_line_ratio": "short_lines",
    "char_dup_ratio": "repeated_line_characters",
    "list_ratio": "lines_per_word",
} | {f"duplicated_{n}_n_grams": f"repeated_{n}_grams" for n in range(5, 11)}


@cache
def documents() -> list[str]:
    return [document(seed) for seed in range(GOLDEN["documents"])]


def peer_verdicts(family: str) -> list[str]:
    peer = GOLDEN["verdicts"][family]
    reasons = [peer["reasons"][ord(letter) - ord("a")] for letter in peer["of"]]
    return [
        "keep" if reason == "keep" else f"{family}/{PEER_NAMES.get(reason, reason)}" for reason in reasons
    ]


def test_the_documents_are_those_that_datatrove_saw() -> None:
    assert hashlib.sha256("\0".join(documents()).encode()).hexdigest() == GOLDEN["sha256"]


@pytest.mark.parametrize("family", FAMILIES)
def test_verdicts_and_reasons_equal_datatroves_on_a_thousand_documents(family: str) -> None:
    ours = [FAMILIES[family](View(text)) for text in documents()]
    rules = [verdict.rule if isinstance(verdict, Dropped) else "keep" for verdict in ours]
    assert rules == peer_verdicts(family)
    assert {rule for rule in RULES if rule.startswith(f"{family}/")} == set(rules) - {"keep"}  # each is met
    assert set(rules) <= {"keep", *RULES}


def test_c4_keeps_the_lines_that_datatrove_keeps() -> None:
    kept = [verdict for verdict in map(web.c4, map(View, documents())) if isinstance(verdict, str)]
    assert (
        "".join(f"{zlib.crc32(text.encode()):08x}" for text in kept) == GOLDEN["verdicts"]["c4"]["kept_crc32"]
    )


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        ("don't", "do n't"),
        ("John's,", "John 's ,"),
        ("(e.g.,", "( e.g. ,"),
        ("U.S.", "U.S."),
        ("end.", "end ."),
        ("NASA.", "NASA ."),
        ("well-known", "well - known"),
        ("“Yes!”", "“ Yes ! ”"),
        ("3.14", "3.14"),
        ("50%", "50 %"),
        ("10km,", "10 km ,"),
        ("see...", "see ..."),
        ("http://example.org/a-b?q=1,", "http://example.org/a-b?q=1 ,"),
        ("me@example.org.", "me@example.org ."),
        ("Cannot", "Can not"),
    ],
)
def test_words_are_split_as_spacy_splits_english(chunk: str, words: str) -> None:
    assert split_chunk(chunk) == words.split()


@settings(deadline=None)
@given(st.text().filter(lambda text: len(text.split()) == 1))
@example("." * 50)
@example("'s's's")
def test_splitting_loses_nothing(text: str) -> None:
    chunk = text.split()[0]
    words = split_chunk(chunk)
    assert "".join(words) == chunk
    assert all(words)


def test_sentences_end_at_full_stops_but_not_in_abbreviations() -> None:
    assert sentences("Mr. Smith went. He left! Did he? Yes.") == 4
    assert sentences("no end") == 1
    assert sentences("") == 0


def test_details_say_what_was_seen_and_the_bound() -> None:
    few = gopher.quality(View("word " * 12))
    assert few == Dropped("gopher_quality/min_words", "12 < 50")
    text = "\n".join(["This line is there again and again."] * 20)
    assert gopher.repetition(View(text)) == Dropped("gopher_repetition/repeated_lines", "0.95 > 0.3")


def test_a_vocabulary_that_is_full_starts_anew_with_the_same_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codex_ray.corpus.cleaning.words.MOST_CHUNKS", 100)
    texts = documents()[:60]
    fresh = [gopher.repetition(View(text)) for text in texts]
    monkeypatch.undo()
    assert fresh == [gopher.repetition(View(text)) for text in texts]


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["the", "cat", "sat", "x", "ab."]), min_size=5, max_size=80), st.integers(2, 10)
)
def test_ngram_counts_equal_the_plain_definition(words: list[str], n: int) -> None:
    text = " ".join(words).replace(".", " .")
    parts = text.split()
    view = View(text)
    drop = gopher.repetition(view)
    grams = [tuple(parts[start : start + n]) for start in range(len(parts) - n + 1)]
    if grams and n <= 4 and drop is None:
        top = max(grams, key=grams.count)
        assert len(" ".join(top)) * grams.count(top) <= gopher.TOP_NGRAMS[n] * len(text)
    if grams and n >= 5 and drop is None:
        assert plain_repeated(parts, n) <= gopher.REPEATED_NGRAMS[n] * len(text)


def plain_repeated(words: list[str], n: int) -> int:
    seen: set[tuple[str, ...]] = set()
    characters = place = 0
    while place <= len(words) - n:
        gram = tuple(words[place : place + n])
        characters += len("".join(gram)) if gram in seen else 0
        place += n if gram in seen else 1
        seen.add(gram)
    return characters


@settings(deadline=None)
@given(st.text())
def test_no_text_makes_a_rule_fail(text: str) -> None:
    for rules in FAMILIES.values():
        verdict = rules(View(text))
        assert not isinstance(verdict, Dropped) or verdict.rule in RULES
