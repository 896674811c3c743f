"""The words of many texts at once, as 64-bit hashes: what shingles are made of.

A word is a run of letters and digits of the lower-cased text (``str.lower``). Letters are the ASCII ones
and, by ranges that no Unicode version moves, the characters from U+00C0 to U+1FFF. Scripts that put no
space between words have a word per character: Thai, Lao, Tibetan, Burmese and Khmer, and everything from
U+2C00 on (Chinese, Japanese, Korean, emoji, ...). All else keeps words apart: ASCII signs, white space,
U+0080 to U+00BF, U+2000 to U+2BFF and U+3000 to U+303F. In a text with fewer words than a shingle needs,
each sign that is no ASCII white space is a word too, so that texts of signs alone differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

UInt64 = NDArray[np.uint64]

APART, LETTER, ALONE = 0, 1, 2
LONG = 64  # bytes; the few words that are longer (encoded data, mostly) are hashed one by one

_ASCII = np.array(
    [LETTER if byte < 128 and chr(byte).isalnum() else APART for byte in range(256)], dtype=np.uint8
)
_SPACE = np.array([byte == 0 or (byte < 128 and chr(byte).isspace()) for byte in range(256)])
_BLOCKS = np.full(1024, ALONE, dtype=np.uint8)  # kinds of 64 code points each, up to U+FFFF
for _first, _last, _kind in (
    (0x0080, 0x00BF, APART),
    (0x00C0, 0x0DFF, LETTER),
    (0x1080, 0x177F, LETTER),
    (0x1800, 0x1FFF, LETTER),
    (0x2000, 0x2BFF, APART),
    (0x3000, 0x303F, APART),
):
    _BLOCKS[_first >> 6 : (_last >> 6) + 1] = _kind
_MASKS = np.array([2 ** (8 * count) - 1 for count in range(9)], dtype=np.uint64)
_SPREAD = np.uint64(0xD6E8FEB86659FD93)


def hash_words(texts: Sequence[str], few: int) -> tuple[UInt64, NDArray[np.int64]]:
    """Hash the words of each text.

    Args:
        texts: what to read.
        few: in a text with fewer words than this, signs are words as well.

    Returns:
        The hashes of all words, text after text, and the number of words of each text.
    """
    encoded = [text.lower().encode() for text in texts]
    # A sign before, between and after the texts; the last word can be read in whole steps of 8 bytes.
    buffer = b"\n" + b"\n".join(encoded) + bytes(1 + LONG)
    data = np.frombuffer(buffer, dtype=np.uint8)
    sizes = np.array([len(text) + 1 for text in encoded], dtype=np.int64)
    limits = np.concatenate([[0], np.cumsum(sizes)])
    kinds = _ASCII[data]
    leads = _mark_beyond_ascii(data, kinds) if not buffer.isascii() else None
    starts, stops = _runs(kinds, leads)
    counts = np.diff(np.searchsorted(starts, limits + 1))
    if (counts < few).any():
        signs = _mark_signs(data, kinds, np.flatnonzero(counts < few), limits)
        leads = signs if leads is None else np.concatenate([leads, signs])
        starts, stops = _runs(kinds, leads)
        counts = np.diff(np.searchsorted(starts, limits + 1))
    return _hash_runs(buffer, starts, stops), counts


def _mark_beyond_ascii(data: NDArray[np.uint8], kinds: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Set the kinds of all characters beyond ASCII; return where those that are words alone begin."""
    places = np.flatnonzero(data >= 0x80)
    values = data[places].astype(np.int64)
    is_lead = values >= 0xC0
    lead, second = values[is_lead], data[places[is_lead] + 1].astype(np.int64)
    block = np.where(lead < 0xE0, lead & 0x1F, ((lead & 0x0F) << 6) | (second & 0x3F))
    kind = np.where(lead >= 0xF0, np.uint8(ALONE), _BLOCKS[block])
    kinds[places] = kind[np.cumsum(is_lead) - 1]
    alone: NDArray[np.int64] = places[is_lead][kind == ALONE]
    return alone


def _mark_signs(
    data: NDArray[np.uint8], kinds: NDArray[np.uint8], texts: NDArray[np.int64], limits: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Make words of the signs of some texts; return where each begins."""
    begins = []
    for text in texts.tolist():
        span = slice(limits[text] + 1, limits[text + 1])
        places = np.flatnonzero((kinds[span] == APART) & ~_SPACE[data[span]]) + span.start
        kinds[places] = ALONE
        begins.append(places[(data[places] & 0xC0) != 0x80])
    return np.concatenate(begins)


def _runs(
    kinds: NDArray[np.uint8], leads: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each word starts and stops."""
    edge = kinds[1:] != kinds[:-1]
    if leads is not None:
        edge[leads - 1] = True
    edges = np.flatnonzero(edge) + 1
    if leads is None:  # words and what is between them take turns
        return edges[0::2], edges[1::2]
    kept = np.flatnonzero(kinds[edges] != APART)
    return edges[kept], edges[kept + 1]


def _hash_runs(buffer: bytes, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> UInt64:
    """Hash each word, eight bytes at a time; equal words and only they have equal hashes, but for chance."""
    eights = np.ndarray((len(buffer) - 7,), dtype="<u8", buffer=buffer, strides=(1,))
    lengths = stops - starts
    hashes: UInt64 = eights[starts]
    hashes &= _MASKS[np.minimum(lengths, 8)]
    _spread(hashes)
    longer = np.flatnonzero(lengths > 8)
    for place in range(8, LONG, 8):
        if not len(longer):
            return hashes
        chunk = eights[starts[longer] + place]
        chunk &= _MASKS[np.minimum(lengths[longer] - place, 8)]
        chunk ^= hashes[longer] + np.uint64(place)
        _spread(chunk)
        hashes[longer] = chunk
        longer = longer[lengths[longer] > place + 8]
    for word in longer.tolist():
        digest = hashlib.blake2b(buffer[starts[word] : stops[word]], digest_size=8).digest()
        hashes[word] = int.from_bytes(digest, "little")
    return hashes


def _spread(values: UInt64) -> None:
    """Let the high bits change the low ones and the low ones the high ones, in place."""
    values ^= values >> np.uint64(32)
    values *= _SPREAD
    values ^= values >> np.uint64(32)
