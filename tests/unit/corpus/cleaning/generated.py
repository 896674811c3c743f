"""Documents made from a seed, each close to one rule's threshold, on either side of it.

Only ``random.Random.random`` is used, whose values are the same in every Python.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

_COMMON = """
the of and to in a is that for it as was with be by on not he his but at are this have from or had an
they which one you were all her she there would their we him been has when who will no more if out so
"""
_SYLLABLES = (
    "ka lo mi ter pan du ver san to re li gor men ta bis che fal nor ul pra est in ob sul wem dy qua zor hil"
)
_SPECIAL = """
don't it's we'll I'm John's well-known state-of-the-art U.S. e.g. Mr. Dr. 3.14 1,000 $5 50% 10:30 a/b
foo_bar (maybe) (e.g., this) "quoted" 'single' “typographic” naïve Größe café C++ f(x) x=1 www.example.org/a
http://example.org/b?q=1 me@example.org -- — 2-3 1990s A. K. vs. etc. #tag @user & * no.1 и 中文。 end.Start
rock'n'roll cannot [1] [edit] … wait... 'tis 5pm 12,5 x² ½ ©2024 <b> ~5 100€ !? they're could've
"""
COMMON, SYLLABLES, SPECIAL = _COMMON.split(), _SYLLABLES.split(), _SPECIAL.split()
STOPS = ["the", "be", "to", "of", "and", "that", "have", "with", "The"]
REFUSED = [
    *("javascript", "JavaScript", "Lorem ipsum", "lorem ipsum", "{", "{x}", "privacy policy", "Terms of use"),
    *("uses cookies", "cookie", "}", "[citation needed]", "[edit]", "[12]", "x" * 1001, "x" * 1000),
]


class Writer:
    """Words, sentences and lines, drawn from one random generator."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed).random

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.random()

    def whole(self, low: int, high: int) -> int:
        return low + int((high - low + 1) * self.random())

    def pick(self, words: list[str]) -> str:
        return words[int(len(words) * self.random())]

    def rare(self, syllables: int) -> str:
        return "".join(self.pick(SYLLABLES) for _ in range(syllables))

    def word(self) -> str:
        draw = self.random()
        if draw < 0.42:
            return self.pick(COMMON)
        return self.pick(SPECIAL) if draw < 0.46 else self.rare(self.whole(1, 4))

    def words(self, count: int) -> list[str]:
        return [self.word() for _ in range(count)]

    def sentence(self, low: int = 6, high: int = 24, end: str = "") -> str:
        words = self.words(self.whole(low, high))
        if len(words) > 8 and self.random() < 0.5:
            words[4] += ","
        return words[0].capitalize() + " " + " ".join(words[1:]) + (end or self.pick(list("....!?")))

    def line(self, low: int = 1, high: int = 4) -> str:
        return " ".join(self.sentence() for _ in range(self.whole(low, high)))

    def lines(self, count: int) -> list[str]:
        return [self.line() for _ in range(count)]

    def share(self, items: list[str], share: float, change: Callable[[str], str]) -> list[str]:
        """Change that share of the items, spread evenly."""
        wanted, done, result = share * len(items), 0, list[str]()
        for place, item in enumerate(items):
            due = int((place + 1) * wanted / len(items)) > done
            done += due
            result.append(change(item) if due else item)
        return result


def plain(write: Writer) -> str:
    return "\n".join(write.lines(write.whole(3, 25)))


def few_words(write: Writer) -> str:
    return " ".join(write.words(write.whole(38, 62))) + "."


def word_lengths(write: Writer) -> str:
    if write.random() < 0.5:
        letters = [write.rare(1)[: write.whole(1, 3)] for _ in range(200)]
        return " ".join(write.share(letters, write.between(0.05, 0.6), lambda _: write.rare(2)))
    longs = [write.rare(4) for _ in range(200)]
    return " ".join(write.share(longs, write.between(0.4, 0.9), lambda _: write.rare(5))) + " the and"


def symbols(write: Writer) -> str:
    symbol = write.pick(["#", "...", "…"])
    words = write.share(write.words(300), write.between(0.04, 0.16), lambda word: f"{word} {symbol}")
    return "\n".join(" ".join(words[start : start + 15]) + "." for start in range(0, 300, 15))


def bullets(write: Writer) -> str:
    mark = write.pick(["- ", "• ", "  -"])
    return "\n".join(write.share(write.lines(40), write.between(0.82, 0.98), lambda line: mark + line))


def cut_lines(write: Writer) -> str:
    end = write.pick(["...", "…", "... "])
    lines = write.share(write.lines(40), write.between(0.22, 0.38), lambda line: line[:-1] + end)
    return "\n".join(lines)


def numbers(write: Writer) -> str:
    words = write.words(300)
    return " ".join(write.share(words, write.between(0.05, 0.3), lambda _: str(write.whole(1, 99999))))


def no_stop_words(write: Writer) -> str:
    words = [write.rare(write.whole(1, 4)) for _ in range(120)]
    for _ in range(write.whole(0, 4)):
        words[write.whole(0, 119)] = write.pick(
            ["the", "be", "to", "of", "and", "that", "have", "with", "The"]
        )
    return " ".join(words) + "."


def paragraphs_again(write: Writer) -> str:
    paragraphs = write.lines(20)
    if write.random() < 0.5:  # short ones: the share of paragraphs is met before that of characters
        again = write.sentence(2, 3)
        return "\n\n".join(write.share(paragraphs, write.between(0.2, 0.45), lambda _: again))
    again = write.line(3, 3)
    return "\n\n\n".join(write.share(paragraphs, write.between(0.08, 0.3), lambda _: again))


def lines_again(write: Writer) -> str:
    lines = write.lines(30)
    again = write.sentence(2, 3) if write.random() < 0.5 else write.line(2, 3)
    return "\n".join(write.share(lines, write.between(0.1, 0.45), lambda _: again))


def lines_again_a_little(write: Writer) -> str:
    lines = write.lines(40)
    again = write.sentence(3, 6)
    return "\n".join(write.share(lines, write.between(0.02, 0.12), lambda _: again))


def top_ngram(write: Writer) -> str:
    n = write.whole(2, 4)
    phrase = " ".join(write.rare(2) for _ in range(n))
    words = [write.rare(write.whole(2, 3)) for _ in range(240)]
    return " ".join(write.share(words, write.between(0.05, 0.2), lambda _: phrase)) + " the and."


def ngrams_again(write: Writer) -> str:
    length = write.whole(5, 14)
    phrases = [" ".join(write.words(length)) for _ in range(write.whole(2, 6))]
    words = write.share(
        write.words(400), write.between(0.1, 0.42) / length, lambda word: f"{word} {write.pick(phrases)}"
    )
    return " ".join(words) + "."


def few_sentences(write: Writer) -> str:
    lines = [write.sentence(5, 12) for _ in range(write.whole(1, 5))]
    if write.random() < 0.5:
        lines = [" ".join([line, write.sentence()]) for line in lines[:3]]
    lines += [write.sentence(2, 5, end=write.pick([" ", ",", "...", ";"])) for _ in range(write.whole(0, 4))]
    lines += ["Yes, no.", "One [2].", "Two words [3]"][: write.whole(0, 3)]
    return "\n".join(lines)


def refused_lines(write: Writer) -> str:
    phrase = write.pick(REFUSED)
    end = write.pick([".", ".", "!", "", "...", '"', "'", ")"])
    lines = [write.sentence() for _ in range(write.whole(3, 9))]
    lines.insert(write.whole(0, len(lines) - 1), f"This {phrase} is {write.word()} line{end}")
    return write.pick(["\n", "\n\n", "\r\n", "\n \n"]).join(lines)


def unended_lines(write: Writer) -> str:
    end = write.pick([".", "。", "!", "؟", '."', ". "])
    lines = write.share(write.lines(50), 1.0, lambda line: line[:-1].rstrip(".!?") + " x")
    return "\n".join(write.share(lines, write.between(0.06, 0.2), lambda line: line + end))


def short_lines(write: Writer) -> str:
    lines = [write.line(2, 3) for _ in range(40)]
    lines = write.share(
        lines, write.between(0.58, 0.76), lambda _: write.rare(12)[: write.whole(22, 31)] + "."
    )
    return "\n".join(lines)


def lists(write: Writer) -> str:
    lines = [f"{write.rare(6)} {write.rare(7)}." for _ in range(60)]
    return "\n".join(write.share(lines, write.between(0.0, 0.35), lambda line: f"The and {line}"))


def endless(write: Writer) -> str:
    return "\n".join(write.lines(write.whole(2300, 3300)))


def odd(write: Writer) -> str:
    return write.pick(["", " ", "\n\n", "a", ". . .", "\u2028", "....", "\x0b\x0c", "-" * 400, "word " * 60])


KINDS = [
    plain, few_words, word_lengths, symbols, bullets, cut_lines, numbers, no_stop_words, paragraphs_again,
    lines_again, lines_again_a_little, top_ngram, ngrams_again, ngrams_again, few_sentences, refused_lines,
    refused_lines, unended_lines, short_lines, lists,
]  # fmt: skip


def document(seed: int) -> str:
    """Make the document of a seed."""
    write = Writer(seed)
    if seed % 250 == 249:
        return endless(write)
    return odd(write) if seed % 50 == 48 else KINDS[seed % len(KINDS)](write)
