"""The rules made for web pages: C4's on lines and pages, and FineWeb's additional ones.

C4 (Raffel et al. 2020, JMLR 21(140), section 2.2, and its code in tensorflow_datasets) rejects lines of a
page and keeps the rest; the page is dropped when fewer than five sentences are left. All of its rules
are applied but one: the list of bad words, which removes medicine and minorities' speech with the rest.
FineWeb (Penedo et al. 2024, arXiv:2406.17557, section 3.6) adds three rules on lines and, in its code,
one on lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from codex_ray.corpus.cleaning.gopher import above, below, repeated
from codex_ray.corpus.cleaning.words import View, sentences
from codex_ray.corpus.raw import Dropped

MIN_SENTENCES = 5
MIN_LINE_WORDS = 3
MAX_WORD_CHARACTERS = 1000
END_MARKS = (".", "?", "!", '"', "'")
POLICY = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)

MIN_ENDED_LINES = 0.12
MAX_SHORT_LINES, SHORT_LINE = 0.67, 30
MAX_REPEATED_LINE_CHARACTERS = 0.01
MAX_LINES_PER_WORD = 0.3

_CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")


def c4(view: View) -> str | Dropped:
    """Keep the lines of a page that are sentences; drop the page when too few are left, or for what it is."""
    text = view.text
    lowered = text.lower()
    lines_refused = "javascript" in lowered or any(phrase in lowered for phrase in POLICY)
    placeholder, braces, long_words = "lorem ipsum" in lowered, "{" in text, len(text) > MAX_WORD_CHARACTERS
    kept: list[str] = []
    for whole in view.lines:
        line = whole.strip()
        words = line.split(None, MIN_LINE_WORDS)
        if long_words and len(line) > MAX_WORD_CHARACTERS and _long_word(line):
            continue
        if "[" in line:
            line = _CITATION.sub("", line)
        if not line.endswith(END_MARKS) or line.endswith("...") or len(words) < MIN_LINE_WORDS:
            continue
        if placeholder and "lorem ipsum" in line.lower():
            return Dropped("c4/lorem_ipsum", "a line of placeholder text")
        if lines_refused and "javascript" in line.lower():
            continue
        if braces and "{" in line:
            return Dropped("c4/curly_bracket", "a line with {")
        if lines_refused and any(phrase in line.lower() for phrase in POLICY):
            continue
        kept.append(line)
    count = len(kept)  # each has at least one sentence
    if count < MIN_SENTENCES:
        count = sum(map(sentences, kept))
    return below("c4/min_sentences", count, MIN_SENTENCES) or "\n".join(kept).strip()


def _long_word(line: str) -> bool:
    return max(map(len, line.split())) > MAX_WORD_CHARACTERS


def fineweb(view: View) -> Dropped | None:
    """Judge a page by its lines; returns the first rule it breaks."""
    return next((dropped for dropped in _fineweb(view) if dropped), None)


def _fineweb(view: View) -> Iterator[Dropped | None]:
    lines = [line for line in view.text.split("\n") if line and not line.isspace()]
    if not lines:
        yield Dropped("fineweb/empty", "no line with a character on it")
        return
    ended = sum(_ENDS[line[-1]] for line in lines)
    yield below("fineweb/ended_lines", ended / len(lines), MIN_ENDED_LINES)
    short = sum(len(line) <= SHORT_LINE for line in lines)
    yield above("fineweb/short_lines", short / len(lines), MAX_SHORT_LINES)
    breaks = view.text.count("\n")
    again = repeated(lines)[1] / (len(view.text) - breaks)
    yield above("fineweb/repeated_line_characters", again, MAX_REPEATED_LINE_CHARACTERS)
    if breaks > MAX_LINES_PER_WORD * len(view.chunks):  # there are at least as many words
        yield above("fineweb/lines_per_word", breaks / max(1, len(view.numbers)), MAX_LINES_PER_WORD)


class _SentenceEnds(dict[str, bool]):
    """Whether a character ends a sentence in some script: Unicode's property Sentence_Terminal."""

    def __missing__(self, character: str) -> bool:
        import regex

        self[character] = ends = regex.match(r"\p{Sentence_Terminal}", character) is not None
        return ends


_ENDS = _SentenceEnds()
