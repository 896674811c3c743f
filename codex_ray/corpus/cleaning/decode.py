"""From bytes to text: strict UTF-8, or the detection of another encoding."""

from __future__ import annotations

import codecs
import re
import unicodedata

from codex_ray.corpus.raw import Quarantined, Raw

MARK = "byte order mark"
MOST_UNUSUAL = 0.01  # unassigned and private characters, of all, in text whose encoding was guessed

# Charset-normalizer takes Windows' texts for these, which nobody has written in since 2001.
MACINTOSH = ("mac_cyrillic", "mac_greek", "mac_iceland", "mac_latin2", "mac_roman", "mac_turkish")

_MARKED = (  # UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16"),
)
_CONTROL = re.compile("[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]")


def decode(raw: Raw, *, detect: bool) -> tuple[str, tuple[str, ...]] | Quarantined:
    """Decode a document; text that needs no decoding is only checked.

    Args:
        raw: the document.
        detect: where bytes are no UTF-8, look for the encoding that they have.

    Returns:
        Its text, and what was done to it; or why it is no text: NUL characters (binary data), bytes that
        are no UTF-8 (with ``detect``: in no encoding that fits), or lone surrogates.
    """
    if isinstance(raw.content, str):
        problem = no_text(raw.content)
        return Quarantined(raw.name, problem) if problem else (raw.content, ())
    text, problem = _strict(raw.content)
    if problem is None:
        marked = raw.content.startswith(codecs.BOM_UTF8)
        return (text[1:], (MARK,)) if marked else (text, ())
    found = detected(raw.content) if detect else None
    if found is None:
        return Quarantined(raw.name, problem)
    text, encoding = found
    return text, (f"decoded as {encoding}",)


def no_text(text: str) -> str | None:
    """Say why a string is no text: a NUL character, or a lone surrogate."""
    if "\0" in text:
        return f"binary: a NUL character at {text.index(chr(0))}"
    try:
        text.encode()  # several times faster than looking for surrogates by a pattern
    except UnicodeEncodeError as error:
        return f"lone surrogate: U+{ord(error.object[error.start]):04X} at {error.start}"
    return None


def detected(data: bytes) -> tuple[str, str] | None:
    """Find the encoding of bytes that are no UTF-8.

    A mark decides. Bytes with NULs can be UTF-16 alone, if the NULs are at odd or at even places; for
    all others charset-normalizer is asked, without the Macintosh's. Short texts in old 8-bit encodings
    are easily taken for one of their relatives.

    Returns:
        The text without its mark, and the encoding's name; None where nothing fits.
    """
    for mark, encoding, _ in _MARKED:
        if data.startswith(mark) and (text := _decoded(data[len(mark) :], encoding)) is not None:
            return text, encoding
    if b"\0" in data:
        even, odd = data[0::2].count(0), data[1::2].count(0)
        encoding = "utf-16-le" if odd > even else "utf-16-be"
    else:
        from charset_normalizer import from_bytes

        best = from_bytes(data, cp_exclusion=list(MACINTOSH)).best()
        if best is None:
            return None
        encoding = best.encoding.replace("_", "-")
    text = _decoded(data, encoding)
    return None if text is None else (text, encoding)


def _strict(data: bytes) -> tuple[str, str | None]:
    for mark, _, family in _MARKED:
        if data.startswith(mark):
            return "", f"not UTF-8: it begins with the byte order mark of {family}"
    if (place := data.find(0)) >= 0:
        return "", f"binary: a NUL character at {place}"
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError as error:
        return "", f"not UTF-8: byte 0x{data[error.start]:02x} at {error.start}"


def _decoded(data: bytes, encoding: str) -> str | None:
    """Decode; None where it fails or where what comes out is hardly text."""
    try:
        text = data.decode(encoding)
    except (UnicodeError, LookupError):
        return None
    text = text.removeprefix("\ufeff")
    if not text or _CONTROL.search(text) or no_text(text):
        return None
    unusual = sum(unicodedata.category(character) in ("Cn", "Co") for character in text)
    return text if unusual <= MOST_UNUSUAL * len(text) else None
