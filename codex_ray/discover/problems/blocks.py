"""Blocks of code in what a model writes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from codex_ray.discover.problem import Refused

LONGEST = 100_000  # characters
PYTHON = ("python", "py", "python3", "")
_BLOCK = re.compile(r"^```([\w+-]*)[ \t]*\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)


def last_block(text: str, languages: Sequence[str] | None = None) -> str:
    """Return the last block of code, of some languages or of any.

    Raises:
        Refused: there is none, or it is too long.
    """
    blocks = [
        code for language, code in _BLOCK.findall(text) if languages is None or language.lower() in languages
    ]
    if not blocks or not blocks[-1].strip():
        raise Refused(
            "the answer has no block of code" if languages is None else "the answer has no block of Python"
        )
    if len(blocks[-1]) > LONGEST:
        raise Refused(f"the program is longer than {LONGEST} characters")
    return str(blocks[-1])
