"""One view of a text, shared by every rule: its lines, its words, and what each word is.

Words follow the English rules that spaCy's tokenizer is known for, since those are what datatrove, and with
it FineWeb, counts: white space separates; brackets, quotation marks and punctuation at either end are
words of their own; hyphens between letters separate; ``don't`` is ``do`` and ``n't``; addresses and
abbreviations such as ``U.S.`` stay whole. What stands between two white spaces always gives the same
words, so it is split once and remembered; a text is then an array of word numbers, over which the rules
count with numpy. The numbers differ from process to process, the counts do not.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Keys = NDArray[np.uint64]

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
SENTENCE_ENDS = frozenset(".!?։؟۔।॥。．｡！？‼⁇⁈⁉")
NAMED, ALPHABETIC, ENDS_SENTENCE, PUNCTUATION = 1, 2, 4, 8

MOST_CHUNKS, MOST_CHARACTERS = 2**18, 16 * 2**20  # remembered before the vocabulary starts anew
LONGEST_END = 6  # characters before the last full stops that can belong to what ends a chunk
LONGEST = 128  # longer chunks, which are no language, are split in one pass at every change of kind

_QUOTES = "'\"“”‘’`´«»„‚‹›"
_MARKS = ",:;!?¿¡()[\\]{}<>_#*&。？！，、；：～·।،؟۔؛٪—–…©®™°"
_LETTER = r"[^\W\d_]"
_UNIT = "am|pm|[AP]M|[kdcm]?m[²³]?|[kmµ]?g|lb|oz|ft|mph|km/h|m/s|h?Pa|[kKmMgGtT][bB]|[GMK]"
_START = re.compile(rf"\.\.+|[{_MARKS}{_QUOTES}§%=$£€¥]|\+(?![0-9])")
_END = re.compile(
    rf"(?:\.\.+|['’][sS]|[{_MARKS}{_QUOTES}]|(?<=[0-9])(?:[+%$£€¥]|{_UNIT})"
    rf"|(?:(?<=[^\W_A-Z])|(?<=[%+{_MARKS}{_QUOTES}-]))\.|(?<=[A-Z][A-Z])\.)$"
)
_BETWEEN = re.compile(
    rf"\.\.+|…|(?<=[0-9])[+*^-](?=[0-9-])|(?<=[a-z{_QUOTES}])\.(?=[A-Z{_QUOTES}])|(?<={_LETTER}),(?={_LETTER})"
    rf"|(?<={_LETTER})(?:-+|[–—~]+)(?={_LETTER})|(?<=[^\W_])[:<>=/](?={_LETTER})"
)
_CONTRACTED = re.compile(
    rf"({_LETTER}+)(n['’]t|['’](?:ll|re|ve|d|m))|(can)(not)|(gon|wan)(na)|(got)(ta)", re.IGNORECASE
)
_ADDRESS = re.compile(
    r"(?:[a-z][a-z0-9+]*://|www\.)\S*[\w/]|[\w.+-]+@[\w-]+(?:\.[\w-]+)+"
    r"|[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|edu|gov)",
    re.IGNORECASE,
)
_JOINED = frozenset(["cannot", "gonna", "wanna", "gotta"])  # letters alone that are two words
_RUNS = re.compile(r"\w+|-+|[^\w-]")
_ABBREVIATIONS = """
e.g. i.e. a.m. p.m. mr. mrs. ms. dr. prof. st. jr. sr. vs. inc. ltd. co. corp. bros. gen. gov. rep. sen. rev.
adm. messrs. mt. ph.d. jan. feb. mar. apr. jun. jul. aug. sep. sept. oct. nov. dec.
"""
_WHOLE = frozenset(_ABBREVIATIONS.split())
_SYMBOLS = frozenset("$+<=>^`|~´►")


def split_chunk(chunk: str) -> list[str]:
    """Split what stands between two white spaces into its words."""
    if len(chunk) > LONGEST:
        return _RUNS.findall(chunk)
    first: list[str] = []
    last: list[str] = []
    while chunk and not _whole(chunk):
        if chunk.isalpha() and chunk.lower() not in _JOINED:
            break
        if start := _START.match(chunk):
            first.append(start[0])
            chunk = chunk[start.end() :]
        elif end := _END.search(chunk, max(0, len(chunk.rstrip(".")) - LONGEST_END)):
            last.append(end[0])
            chunk = chunk[: end.start()]
        else:
            first += _inside(chunk)
            chunk = ""
    return first + ([chunk] if chunk else []) + last[::-1]


def _whole(chunk: str) -> bool:
    if "." not in chunk and ":" not in chunk:
        return False
    initial = len(chunk) == 2 and chunk[1] == "." and chunk[0].isalpha()
    return initial or chunk.lower() in _WHOLE or _ADDRESS.fullmatch(chunk) is not None


def _inside(chunk: str) -> list[str]:
    if contracted := _CONTRACTED.fullmatch(chunk):
        return [part for part in contracted.groups() if part]
    found: list[str] = []
    place = 0
    for between in _BETWEEN.finditer(chunk):
        if between.start() > place:
            found.append(chunk[place : between.start()])
        found.append(between[0])
        place = between.end()
    return [*found, chunk[place:]] if place < len(chunk) else found


def is_symbol(character: str) -> bool:
    """Whether a character alone makes no word: punctuation, but a bullet, or a control character."""
    category = unicodedata.category(character)
    return (category[0] == "P" and character != "•") or category == "Cc" or character in _SYMBOLS


class Vocabulary(dict[str, tuple[int, ...]]):
    """The words of every chunk met so far, by number, with the length and the kind of each word."""

    def __init__(self) -> None:
        super().__init__()
        self.characters = 0
        self.numbers: dict[str, int] = {}
        self.lengths: Integers = np.zeros(1024, dtype=np.int64)
        self.flags = np.zeros(1024, dtype=np.uint8)
        self.hashes = _mixed(0, 1024)
        for word in STOP_WORDS:  # numbers 0 to 7
            self._number(word)

    def __missing__(self, chunk: str) -> tuple[int, ...]:
        numbers = tuple([self._number(word) for word in split_chunk(chunk)])
        if len(chunk) <= LONGEST:
            self.characters += len(chunk)
            self[chunk] = numbers
        return numbers

    def _number(self, word: str) -> int:
        known = self.numbers.get(word)
        if known is not None:
            return known
        number = len(self.numbers)
        if number == len(self.lengths):
            self.lengths = np.concatenate([self.lengths, np.zeros_like(self.lengths)])
            self.flags = np.concatenate([self.flags, np.zeros_like(self.flags)])
            self.hashes = np.concatenate([self.hashes, _mixed(number, number)])
        self.numbers[word] = number
        self.characters += len(word)
        self.lengths[number] = len(word)
        self.flags[number] = _flags(word)
        return number


def _mixed(start: int, count: int) -> Keys:
    """Hash numbers to 64 bits: the finalizer of SplitMix64 (Steele et al. 2014)."""
    mixed: Keys = np.arange(start + 1, start + count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _flags(word: str) -> int:
    if word.isalpha():
        return NAMED | ALPHABETIC
    flags = NAMED if any(not is_symbol(character) for character in word) else 0
    if any(character.isalpha() for character in word):
        flags |= ALPHABETIC
    if word in SENTENCE_ENDS:
        flags |= ENDS_SENTENCE
    if all(unicodedata.category(character)[0] == "P" for character in word):
        flags |= PUNCTUATION
    return flags


_vocabulary = Vocabulary()


def _current() -> Vocabulary:
    global _vocabulary
    if len(_vocabulary) > MOST_CHUNKS or _vocabulary.characters > MOST_CHARACTERS:
        _vocabulary = Vocabulary()  # views of earlier texts keep the one they were made with
    return _vocabulary


class View:
    """A text as the rules see it; each part is made when a rule first asks for it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._vocabulary = _current()

    @cached_property
    def chunks(self) -> list[str]:
        """What white space separates: never more than there are words."""
        return self.text.split()

    @cached_property
    def numbers(self) -> Integers:
        """Its words, by number."""
        return np.fromiter(chain.from_iterable(map(self._vocabulary.__getitem__, self.chunks)), np.int64)

    @cached_property
    def lengths(self) -> Integers:
        """How many characters each word has."""
        numbers = self.numbers  # first: it may make the vocabulary larger
        lengths: Integers = self._vocabulary.lengths[numbers]
        return lengths

    @cached_property
    def flags(self) -> NDArray[np.uint8]:
        """What each word is: an or of NAMED, ALPHABETIC, ENDS_SENTENCE and PUNCTUATION."""
        numbers = self.numbers
        return self._vocabulary.flags[numbers]

    @cached_property
    def lines(self) -> list[str]:
        """Its lines, ended by any of the characters that end one."""
        return self.text.splitlines()

    @cached_property
    def hashes(self) -> Keys:
        """A 64-bit number for each word, the same for the same word of this text."""
        numbers = self.numbers
        hashes: Keys = self._vocabulary.hashes[numbers]
        return hashes


def sentences(line: str) -> int:
    """Count a line's sentences: a word after a full stop, exclamation or question mark begins another."""
    count, ended, seen = 0, False, False
    for flag in View(line).flags.tolist():
        seen = True
        if ended and not flag & (PUNCTUATION | ENDS_SENTENCE):
            count += 1
            ended = False
        elif flag & ENDS_SENTENCE:
            ended = True
    return count + seen
