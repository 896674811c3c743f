"""The facts of the continual-learning experiment: keys and values as words, told in two styles.

A model knows old facts, ``bako ?`` answered by ``so dem .``, and how to take a value over from a
demonstration in another style, ``lo dem !``, into its own. New facts are demonstrated in that other style.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
TEACHER_TEMPLATE = "{demonstration}\n{question}"
_Facts = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Sizes:
    """How many there are: facts that are known, facts to be learnt, keys that are only ever asked with a
    demonstration before them, values, and such demonstrations."""

    old: int = 96
    new: int = 48
    others: int = 64
    values: int = 48
    demonstrations: int = 6000


def own(value: str) -> str:
    """Answer in the style that the model has learnt."""
    return f" so {value} ."


def foreign(value: str) -> str:
    """Answer in the style of the demonstrations."""
    return f" lo {value} !"


def question(key: str) -> str:
    """Ask for the value of a key."""
    return f"{key} ?"


def value(row: Mapping[str, Any], text: str) -> float:
    """Return 1 where an answer gives the right value, in whatever style."""
    return float(_middle(text) == _middle(row["response"]))


def write(folder: Path, sizes: Sizes, seed: int) -> None:
    """Write what the model is trained on first, and the rows of old and new facts in either style.

    ``facts.jsonl`` and ``context.jsonl`` are texts; ``old.jsonl``, ``new.jsonl`` (in the model's own style)
    and ``foreign.jsonl`` (the new ones in the other) are prompts and responses.
    """
    draw = np.random.default_rng(seed)
    syllables = ["".join(pair) for pair in itertools.product(CONSONANTS, VOWELS)]
    keys = ["".join(pair) for pair in itertools.product(syllables, repeat=2)]
    keys = [keys[number] for number in draw.permutation(len(keys))[: sizes.old + sizes.new + sizes.others]]
    ends = draw.permutation(len(syllables))[: sizes.values]
    values = [syllables[number] + CONSONANTS[-1 - number % len(CONSONANTS)] for number in ends]
    facts = [(key, values[int(draw.integers(len(values)))]) for key in keys]
    old, new = facts[: sizes.old], facts[sizes.old : sizes.old + sizes.new]
    shown = {
        (keys[int(draw.integers(len(keys)))], values[int(draw.integers(len(values)))])
        for _ in range(sizes.demonstrations)
    }
    folder.mkdir(parents=True, exist_ok=True)
    _lines(folder / "facts.jsonl", [{"text": question(key) + own(word)} for key, word in old])
    demonstrated = [
        TEACHER_TEMPLATE.format(demonstration=foreign(word), question=question(key)) + own(word)
        for key, word in sorted(shown)
    ]
    _lines(folder / "context.jsonl", [{"text": text} for text in demonstrated])
    _lines(folder / "old.jsonl", _rows(old, own))
    _lines(folder / "new.jsonl", _rows(new, own))
    _lines(folder / "foreign.jsonl", _rows(new, foreign))


def _rows(facts: _Facts, style: Any) -> list[dict[str, str]]:
    return [{"prompt": question(key), "response": style(word)} for key, word in facts]


def _lines(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _middle(text: str) -> str | None:
    words = text.split()
    return words[1] if len(words) == 3 else None
