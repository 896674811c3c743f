"""Streams are masked as their whole texts are, however they are cut."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.safety import StreamMask, find, mask
from tests.unit.safety.samples import private_key, tokens
from tests.unit.safety.test_find import everything, texts


def streamed(text: str, cuts: list[int], secrets: bool = True, personal: bool = True) -> str:
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    stream = StreamMask(secrets=secrets, personal=personal)
    shown = [stream.feed(text[start:stop]) for start, stop in pairwise(places)]
    return "".join(shown) + stream.end()


@settings(max_examples=200, deadline=None)
@given(texts(), st.lists(st.integers(0, 10_000), max_size=12), st.booleans(), st.booleans())
def test_a_stream_equals_its_whole_text(text: str, cuts: list[int], secrets: bool, personal: bool) -> None:
    whole = mask(text, find(text, secrets=secrets, personal=personal))
    assert streamed(text, cuts, secrets, personal) == whole


@settings(max_examples=25, deadline=None)
@given(texts())
def test_a_stream_of_single_characters_equals_its_whole_text(text: str) -> None:
    text = text[:400]
    assert streamed(text, list(range(len(text)))) == mask(text, everything(text))


@settings(max_examples=20, deadline=None)
@given(texts(), st.integers(1, 400), st.sampled_from(["x", "word ", "+1 ", "ab, cd", "-----"]))
def test_long_lines_are_cut_alike(text: str, repeats: int, filler: str) -> None:
    line = (text.replace("\n", " ") + filler * repeats) * 5
    assert streamed(line, list(range(0, len(line), 97))) == mask(line, everything(line))


def test_prose_is_shown_word_by_word() -> None:
    stream = StreamMask()
    assert stream.feed("The quick brown fo") == "The quick brown "
    assert stream.feed("x jum") == "fox "
    assert stream.feed("ps\n") == "jumps\n"
    assert stream.feed("写给") == "写给"
    assert stream.end() == ""


def test_no_more_is_held_back_than_stated() -> None:
    for unit in ("x", "word ", "+49 30 ", "password='", "a@b.", "-----BEGIN ", "1.2.", "eyJ0."):
        stream = StreamMask()
        shown = 0
        for number in range(1, 1000):
            shown += len(stream.feed(unit))
            assert number * len(unit) - shown <= StreamMask.HOLDBACK


def test_a_private_key_of_any_length_is_withheld_and_masked_as_one() -> None:
    for newline in ("\n", "\\n"):
        key = private_key(random.Random(3), lines=600, newline=newline)
        stream = StreamMask()
        shown = "".join(stream.feed(key[start : start + 50]) for start in range(0, len(key), 50))
        assert shown == ""
        assert stream.feed(" and then " + "more words " * 100).startswith("<PRIVATE_KEY> and then more")
        assert len(stream._held) < StreamMask.HOLDBACK


def test_every_kind_of_token_is_masked_in_a_stream_of_characters() -> None:
    for pairs in tokens(random.Random(11)).values():
        for line, secret in pairs:
            shown = streamed(line, list(range(len(line))))
            assert secret not in shown and shown == mask(line, everything(line))
