"""What answers are worth: the share of vowels in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def share_of_vowels(row: Mapping[str, Any], text: str) -> float:
    """Return the share of vowels among an answer's letters, from 0 to 1."""
    letters = [letter for letter in text.lower() if letter.isalpha()]
    return sum(letter in "aeiou" for letter in letters) / max(1, len(letters))
