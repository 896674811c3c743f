"""Stop strings on streamed text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_ray.errors import ConfigError
from codex_ray.rollout.stops import StopText

SHORT_TEXT = st.text("ab", max_size=12)


def stream(pieces: list[str], stop: list[str]) -> tuple[StopText, list[str]]:
    text = StopText(stop)
    shown = []
    for piece in pieces:
        shown.append(text.push(piece))
        if text.stopped:
            break
    return text, [*shown, text.finish()]


def expected(whole: str, stop: list[str]) -> str:
    """Cut where the stop string that is complete first begins, by trying every prefix."""
    for end in range(len(whole) + 1):
        matches = [word for word in stop if whole[:end].endswith(word)]
        if matches:
            return whole[: end - len(max(matches, key=len))]
    return whole


def test_a_possible_beginning_is_held_back_until_it_is_sure() -> None:
    text, shown = stream(["x\n", "\nd", "ef", "z"], ["\n\ndef "])
    assert shown == ["x", "", "", "\n\ndefz", ""]
    assert not text.stopped


def test_nothing_of_a_stop_string_is_shown() -> None:
    text, shown = stream(["a", "<|", "end", "|>more"], ["<|end|>"])
    assert "".join(shown) == text.text == "a"
    assert text.stopped


@given(st.lists(SHORT_TEXT, max_size=6), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_shown_text_is_the_text_cut_at_the_first_stop(pieces: list[str], stop: list[str]) -> None:
    text, shown = stream(pieces, stop)
    assert "".join(shown) == text.text == expected("".join(pieces), stop)


@given(st.lists(SHORT_TEXT, max_size=6), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_pieces_do_not_matter(pieces: list[str], stop: list[str]) -> None:
    assert stream(pieces, stop)[0].text == stream(list("".join(pieces)), stop)[0].text


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ConfigError, match="empty"):
        StopText(["a", ""])
