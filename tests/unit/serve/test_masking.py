"""Secrets in streamed choices, and the tokens beside them."""

from __future__ import annotations

import pytest

from codex_ray.serve.events import Entry
from codex_ray.serve.masking import ChoiceText

AWS = "AKIA" + "IOSFODNN7QXVWPTZ"
TEXT = f"the key is {AWS} and no more\n"


def shown(text: str, width: int, *, mask: bool = True) -> tuple[str, str, list[str]]:
    """Feed a text in pieces of one width; the text that came out, in pieces, and the tokens."""
    choice, out, tokens = ChoiceText(mask=mask), [], []
    for start in range(0, len(text), width):
        piece = text[start : start + width]
        seen, entries = choice.feed(piece, [Entry(piece, list(piece.encode()), -1.0, [])])
        out.append(seen)
        tokens += [entry.text for entry in entries]
    seen, entries = choice.end()
    return "".join(out) + seen, "|".join(out), tokens + [entry.text for entry in entries]


@pytest.mark.parametrize("width", [1, 2, 3, 7, 100])
def test_a_secret_never_comes_out_in_text_or_tokens(width: int) -> None:
    text, _, tokens = shown(TEXT, width)
    assert AWS not in text and text.startswith("the key is ") and text.endswith(" and no more\n")
    assert AWS[4:12] not in "".join(tokens)


@pytest.mark.parametrize("width", [1, 3, 100])
def test_harmless_text_comes_whole_with_all_its_tokens(width: int) -> None:
    harmless = "def add(a, b):\n    return a + b\n"
    text, _, tokens = shown(harmless, width)
    assert text == harmless and "".join(tokens) == harmless


def test_words_come_before_the_text_ends() -> None:
    _, pieces, _ = shown("one two three four", 4)
    assert pieces.split("|")[1].strip() != ""


def test_without_masking_everything_passes_at_once() -> None:
    text, pieces, tokens = shown(TEXT, 5, mask=False)
    assert text == TEXT and pieces.replace("|", "") == TEXT and "".join(tokens) == TEXT
