"""Decontamination: documents that hold a stretch of an evaluation set's words are dropped.

A stretch is 13 words long, as for GPT-3 (Brown et al. 2020, arXiv:2005.14165, appendix C). Words are runs of
letters and digits in lower case, so that case, punctuation and white space make no difference.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codex_ray.corpus.raw import Dropped
from codex_ray.errors import CodexRayError, ConfigError

RULE = "decontaminate"
MOST_WORDS = 2**18  # whose hashes are remembered

_WORD = re.compile(r"\w+")
_BASE = np.uint64(0x9E3779B97F4A7C15)


class _Hashes(dict[str, int]):
    """The hash of each word: the same in every process, so that the account of a run is too."""

    def __missing__(self, word: str) -> int:
        value = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest())
        if len(self) < MOST_WORDS:
            self[word] = value
        return value


_hashes = _Hashes()


def ngrams(words: Sequence[str], count: int) -> NDArray[np.uint64]:
    """Hash every stretch of ``count`` words; one word or another anywhere gives another number."""
    hashes = np.fromiter(map(_hashes.__getitem__, words), np.uint64, len(words))
    found = hashes[: max(0, len(words) - count + 1)].copy()
    for start in range(1, count):
        found *= _BASE
        found += hashes[start : start + len(found)]
    return found


@dataclass(frozen=True)
class Index:
    """The stretches of evaluation texts, sorted, each with the place of its file in ``files``."""

    ngrams: NDArray[np.uint64]
    owners: NDArray[np.int32]
    files: tuple[str, ...]


class Decontaminate:
    """Drop documents that share a stretch of words with an evaluation text.

    Texts shorter than a stretch cannot be found, and are not looked for. Files are read as text; of
    ``.jsonl`` and ``.json`` every string in them is a text of its own.

    Args:
        paths: files and folders of evaluation texts.
        words: how many words a stretch has.

    Raises:
        ConfigError: a path does not exist.
        CodexRayError: a file cannot be read, or none has a text long enough.
    """

    name = RULE

    def __init__(self, paths: list[str], words: int) -> None:
        self.words = words
        files = [file for path in paths for file in _files(path)]
        states = [(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        self.index = _index(tuple(states), words)

    def apply(self, text: str, name: str) -> str | Dropped:
        """Look the document's stretches up."""
        words = _WORD.findall(text.lower())
        found = ngrams(words, self.words)
        if not len(found):
            return text
        known = self.index.ngrams
        places = np.minimum(np.searchsorted(known, found), len(known) - 1)
        shared = np.flatnonzero(known[places] == found)
        if not len(shared):
            return text
        first = int(shared[0])
        stretch = " ".join(words[first : first + self.words])
        return Dropped(RULE, f"{stretch!r} is in {self.index.files[self.index.owners[places[first]]]}")


def _files(path: str) -> list[Path]:
    place = Path(path).expanduser()
    if not place.exists():
        raise ConfigError(f"clean.decontaminate: {path} does not exist; give files or folders of text")
    return [place] if place.is_file() else sorted(file for file in place.rglob("*") if file.is_file())


@lru_cache(maxsize=4)
def _index(states: tuple[tuple[Path, int, int], ...], words: int) -> Index:
    arrays, owners = [], []
    for number, (file, _, _) in enumerate(states):
        for text in _texts(file):
            found = np.unique(ngrams(_WORD.findall(text.lower()), words))
            arrays.append(found)
            owners.append(np.full(len(found), number, dtype=np.int32))
    if not sum(map(len, arrays)):
        names = ", ".join(str(file) for file, _, _ in states) or "an empty folder"
        raise CodexRayError(
            f"clean.decontaminate: {names} has no text of {words} words or more; "
            "lower clean.decontaminate_words or give other files"
        )
    every, first = np.unique(np.concatenate(arrays), return_index=True)
    return Index(every, np.concatenate(owners)[first], tuple(str(file) for file, _, _ in states))


def _texts(file: Path) -> Iterator[str]:
    try:
        content = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            yield from _strings(json.loads(content))
        elif file.suffix == ".jsonl":
            for line in content.split("\n"):
                yield from _strings(json.loads(line)) if line.strip() else ()
        else:
            yield content
    except (OSError, ValueError, RecursionError) as error:
        raise CodexRayError(
            f"clean.decontaminate: {file} cannot be read ({error}); give UTF-8 text, .json or .jsonl"
        ) from error


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        parts: Iterable[object] = value.values() if isinstance(value, dict) else value
        for part in parts:
            yield from _strings(part)
