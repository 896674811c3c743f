"""Mending text: what was decoded wrongly somewhere on its way, and Unicode's several spellings."""

from __future__ import annotations

import unicodedata
from typing import Any

from codex_ray.corpus.cleaning.decode import no_text
from codex_ray.corpus.raw import Dropped

MOST_ROUNDS = 16


class Repair:
    """Undo wrong decoding with ftfy, and nothing else of what ftfy can do.

    Quotation marks, ligatures, widths, HTML entities and line ends stay as they are: they are the
    author's. A repair is repeated until it changes nothing, so that repairing twice is repairing once,
    and is refused where it makes what is no text.
    """

    name = "repaired"

    def __init__(self) -> None:
        from ftfy import TextFixerConfig, fix_text

        self._fix: Any = fix_text
        self._configuration = TextFixerConfig(
            unescape_html=False,
            remove_terminal_escapes=False,
            fix_latin_ligatures=False,
            fix_character_width=False,
            uncurl_quotes=False,
            fix_line_breaks=False,
            fix_surrogates=False,
            remove_control_chars=False,
            normalization=None,
            explain=False,
        )

    def apply(self, text: str, name: str) -> str | Dropped:
        """Return the text as it was meant."""
        if text.isascii():
            return text
        mended = text
        for _ in range(MOST_ROUNDS):
            before, mended = mended, str(self._fix(mended, self._configuration))
            if mended == before:
                break
        return text if no_text(mended) else mended


class Normalise:
    """Bring text into one of Unicode's normal forms."""

    name = "normalised"

    def __init__(self, form: str) -> None:
        self._form: Any = form

    def apply(self, text: str, name: str) -> str | Dropped:
        """Return the text in the normal form."""
        return text if text.isascii() else unicodedata.normalize(self._form, text)
