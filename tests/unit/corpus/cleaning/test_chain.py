from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.config.corpus import Clean, Redact
from codex_ray.corpus.cleaning import gopher, web
from codex_ray.corpus.cleaning.chain import Chain, Cleaned
from codex_ray.corpus.cleaning.decontaminate import ngrams
from codex_ray.corpus.cleaning.rules import RULES
from codex_ray.corpus.cleaning.words import View
from codex_ray.corpus.raw import Dropped, Quarantined, Raw
from codex_ray.errors import CodexRayError, ConfigError

ENGLISH = "The ship left the harbour in the morning and nobody on the quay knew when it would come back. "
GERMAN = "Das Schiff verließ am Morgen den Hafen, und niemand am Kai wusste, wann es zurückkommen würde. "
QUESTION = "Which of the seven sisters was the first one to leave the house by the old river?"

EVERYTHING = Clean(
    encoding="detect",
    repair=True,
    normalise="NFC",
    min_bytes=1,
    gopher_quality=True,
    gopher_repetition=True,
    c4=True,
    fineweb=True,
    generated_code=True,
    minified_code=True,
    data_files=True,
    licence_headers=True,
    languages=["en"],
)

JUDGES = """
from codex_ray.corpus.raw import Dropped

class NoLists:
    name = "no_lists"
    def apply(self, text, name):
        if text.startswith("- "):
            return Dropped("no_lists", name)
        if text.startswith("fail"):
            raise ValueError("too bad")
        if text.startswith("none"):
            return None
        if text.startswith("half"):
            return "\\ud800"
        return text.replace("colour", "color")

class Silent:
    name = "silent"

class Nameless:
    def apply(self, text, name):
        return text

class Needy(Nameless):
    def __init__(self, what):
        pass

def function(text, name):
    return text
"""


@pytest.fixture
def judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_judges.py").write_text(JUDGES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_judges", raising=False)
    return "own_judges"


def test_by_default_text_is_kept_exactly_within_its_limits() -> None:
    chain = Chain(Clean(min_bytes=4, max_bytes=8))
    assert chain.apply(Raw("a", b"1234")) == Cleaned("a", "1234")
    assert chain.apply(Raw("a", "12345678")) == Cleaned("a", "12345678")
    assert chain.apply(Raw("a", "12é")) == Cleaned("a", "12é")
    assert chain.apply(Raw("a", "123")) == Dropped("length/too_short", "3 bytes < 4")
    assert chain.apply(Raw("a", "12345678é")) == Dropped("length/too_long", "10 bytes > 8")
    assert chain.apply(Raw("a", b"1234\xff")) == Quarantined("a", "not UTF-8: byte 0xff at 4")
    assert chain.apply(Raw("a", b"\xef\xbb\xbf1234")) == Cleaned("a", "1234", ("byte order mark",))


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_strict_cleaning_keeps_text_exactly(text: str) -> None:
    assert Chain(Clean(min_bytes=1)).apply(Raw("a.py", text)) == Cleaned("a.py", text)


@pytest.fixture(scope="module")
def everything() -> Chain:
    return Chain(EVERYTHING)


@settings(deadline=None)
@given(
    content=st.one_of(st.binary(max_size=300), st.text(max_size=300)),
    name=st.sampled_from(["a.txt", "a.py", "a.c:3", "a.html", "Makefile", "", ":"]),
)
def test_the_chain_never_fails_whatever_a_document_holds(
    everything: Chain, content: bytes | str, name: str
) -> None:
    for chain in (
        everything,
        Chain(replace(EVERYTHING, gopher_quality=False, c4=False, fineweb=False, languages=[])),
    ):
        result = chain.apply(Raw(name, content))
        if isinstance(result, Dropped):
            assert result.rule in RULES
        else:
            assert result.name == name


@pytest.mark.parametrize(
    "text",
    [
        "!" * 2**19,
        "a" + "!" * 2**19,
        "a!" * 2**18,
        "a.com." * 2**16,
        "[" * 2**19,
        "00 " * 2**17,
        ("a" + "!" * 100 + " ") * 2**12,
        "#!x\n// (c) 2020\n" * 2**14,
        "/* (c) 2020\n" * 2**14,
        "\n" * 2**19,
        "Ã©" * 2**16,
    ],
    ids=range(11),
)
def test_no_text_takes_long(everything: Chain, text: str) -> None:
    start = time.process_time()
    for name in ("a.c", "a.txt"):
        everything.apply(Raw(name, text))
    for rules in (gopher.quality, gopher.repetition, web.c4, web.fineweb):
        rules(View(text))
    assert time.process_time() - start < 5  # half a megabyte; what grows with its square takes minutes


def test_what_changed_is_named_in_order() -> None:
    chain = Chain(Clean(encoding="detect", repair=True, normalise="NFC", licence_headers=True))
    text = "# Copyright 2020\nname = 'schÃ¶n'  # e\u0301 and more text\n"
    cleaned = chain.apply(Raw("a.py", text.encode("utf-16")))
    assert cleaned == Cleaned(
        "a.py",
        "name = 'schön'  # é and more text\n",
        ("decoded as utf-16-le", "repaired", "normalised", "licence header"),
    )


def test_a_document_that_cleaning_made_too_short_is_dropped() -> None:
    licence = "# Copyright 2020 by somebody whose name is long\n"
    assert Chain(Clean(licence_headers=True)).apply(Raw("a.py", licence)) == Dropped(
        "length/too_short", "0 bytes < 16"
    )


def test_c4_cuts_lines_and_says_so() -> None:
    text = (ENGLISH.strip() + "\n") * 5 + "A menu without an end\n"
    cleaned = Chain(Clean(c4=True)).apply(Raw("a", text))
    assert cleaned == Cleaned("a", "\n".join([ENGLISH.strip()] * 5), ("c4 lines",))


def test_documents_in_other_languages_are_dropped() -> None:
    chain = Chain(Clean(languages=["en", "fr"]))
    assert isinstance(chain.apply(Raw("a", ENGLISH * 3)), Cleaned)
    dropped = chain.apply(Raw("a", GERMAN * 3))
    assert isinstance(dropped, Dropped)
    assert dropped.rule == "language/other"
    assert dropped.detail.startswith("de with probability")
    sure = Chain(Clean(languages=["en"], language_confidence=1.0)).apply(Raw("a", "cat and dog and x1"))
    assert isinstance(sure, Dropped)
    assert sure.rule.startswith("language/")


def test_unknown_languages_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"does not know 'english'; it knows .*\bde, .*\ben, "):
        Chain(Clean(languages=["de", "english"]))


def test_judges_drop_change_and_fail_for_one_document(judges: str) -> None:
    chain = Chain(Clean(min_bytes=1, judges=[f"{judges}.NoLists"]))
    assert chain.apply(Raw("a", "text")) == Cleaned("a", "text")
    assert chain.apply(Raw("a", "a colour")) == Cleaned("a", "a color", ("no_lists",))
    assert chain.apply(Raw("a", "- one")) == Dropped("no_lists", "a")
    assert chain.apply(Raw("a", "fail")) == Quarantined("a", "judge failed: no_lists: ValueError: too bad")
    assert chain.apply(Raw("a", "none")) == Quarantined(
        "a", "judge failed: no_lists returned NoneType, neither text nor Dropped"
    )
    half = chain.apply(Raw("a", "half"))
    assert isinstance(half, Quarantined)
    assert "lone surrogate" in half.reason


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("NoLists", "no dotted path"),
        ("no_such_module.Judge", "cannot be loaded"),
        ("own_judges.Missing", "cannot be loaded"),
        ("own_judges.function", "without .apply., which it must have"),
        ("own_judges.Silent", "without .apply., which it must have"),
        ("own_judges.Needy", "cannot be made"),
        ("own_judges.Nameless", "has no name"),
    ],
)
def test_judges_that_cannot_be_are_refused_by_name(judges: str, path: str, says: str) -> None:
    with pytest.raises(ConfigError, match=f"{path}.*{says}"):
        Chain(Clean(judges=[path]))


def test_documents_that_share_a_stretch_with_an_evaluation_text_are_dropped(tmp_path: Path) -> None:
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "a.txt").write_text(ENGLISH)
    (folder / "b.jsonl").write_text(json.dumps({"q": [QUESTION], "n": 1}) + "\n\n")
    chain = Chain(Clean(min_bytes=1, decontaminate=[str(folder)]))
    dropped = chain.apply(
        Raw("d", "He asked: WHICH of the seven sisters, was the first one to leave the house?")
    )
    assert isinstance(dropped, Dropped)
    assert dropped.rule == "decontaminate"
    assert dropped.detail.startswith(
        "'which of the seven sisters was the first one to leave the house' is in "
    )
    assert dropped.detail.endswith("b.jsonl")
    twelve = "which of the seven sisters was the first one to leave the"
    assert isinstance(chain.apply(Raw("d", f"Of them {twelve} old house by the old river")), Cleaned)
    assert isinstance(chain.apply(Raw("d", "short")), Cleaned)


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(1, 6))
def test_ngram_hashes_are_equal_where_the_words_are(words: list[str], count: int) -> None:
    hashes = ngrams(words, count).tolist()
    grams = [tuple(words[start : start + count]) for start in range(len(words) - count + 1)]
    assert len(hashes) == len(grams)
    assert len(set(hashes)) == len(set(grams)) == len(set(zip(hashes, grams, strict=True)))


def test_evaluation_files_that_cannot_serve_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.txt does not exist; give files or folders"):
        Chain(Clean(decontaminate=[str(tmp_path / "nowhere.txt")]))
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{")
    with pytest.raises(
        CodexRayError, match=r"broken.jsonl cannot be read \(.*give UTF-8 text, .json or .jsonl"
    ):
        Chain(Clean(decontaminate=[str(broken)]))
    broken.write_text('"too few words"')
    with pytest.raises(CodexRayError, match=r"no text of 13 words or more; lower clean.decontaminate_words"):
        Chain(Clean(decontaminate=[str(broken)]))


def test_every_rule_names_its_bound_and_source() -> None:
    assert all(rule.bound and rule.source for rule in RULES.values())


def test_secrets_and_personal_data_are_masked_or_drop_the_document() -> None:
    text = "Write to jane.doe@company.com before the end of the week, she will know."
    mask = Chain(Clean(redact=Redact(personal="mask")))
    assert mask.apply(Raw("a", text)) == Cleaned(
        "a", text.replace("jane.doe@company.com", "<EMAIL>"), ("masked",)
    )
    drop = Chain(Clean(redact=Redact(secrets="mask", personal="drop")))
    assert drop.apply(Raw("a", text)) == Dropped("redact", "e-mail, 1 of them")
    assert drop.apply(Raw("a", "Nobody to write to here.")) == Cleaned("a", "Nobody to write to here.")
