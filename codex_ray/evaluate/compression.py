"""General-purpose compressors on the same documents: what a model's bits per byte stand beside."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

XZ_PRESET = 9
XZ_DICTIONARY_BYTES = 64 * 2**20
"""How far back ``xz -9`` looks: text further back than this does not help it."""


@dataclass(frozen=True)
class Compressed:
    """Bytes in and out of a compressor."""

    bytes: int
    compressed_bytes: int

    @property
    def bits_per_byte(self) -> float:
        """Compressed bits per byte of text."""
        return 8 * self.compressed_bytes / self.bytes


def gzip_each(texts: Iterable[str]) -> Compressed:
    """Compress each document by itself with ``gzip -9``, headers included."""
    return _each(texts, lambda data: len(gzip.compress(data, 9, mtime=0)))


def xz_each(texts: Iterable[str]) -> Compressed:
    """Compress each document by itself with ``xz -9``, headers included."""
    return _each(texts, lambda data: _xz_bytes([data]))


def xz_primed(training: Sequence[str], texts: Sequence[str]) -> Compressed:
    """Compress the documents, as one stream, after the training text.

    The size is that of ``xz -9`` of both less that of the training text alone: what the documents add once
    the compressor has seen what the model was trained on. The two run side by side in threads. Of a larger
    training text only the end within reach of the compressor is read.
    """
    primer = _end([text.encode() for text in training], XZ_DICTIONARY_BYTES)
    documents = [text.encode() for text in texts]
    with ThreadPoolExecutor(2) as pool:
        both = pool.submit(_xz_bytes, [*primer, *documents])
        alone = pool.submit(_xz_bytes, primer)
        return Compressed(sum(map(len, documents)), both.result() - alone.result())


def _each(texts: Iterable[str], size: Callable[[bytes], int]) -> Compressed:
    sizes = [(len(data), size(data)) for text in texts if (data := text.encode())]
    return Compressed(sum(before for before, _ in sizes), sum(after for _, after in sizes))


def _xz_bytes(parts: Sequence[bytes]) -> int:
    """Size of ``xz -9`` of the parts in a row; a dictionary of the input's size does, and saves memory."""
    dictionary = min(XZ_DICTIONARY_BYTES, max(4096, sum(map(len, parts))))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": XZ_PRESET, "dict_size": dictionary}]
    coder = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=filters)
    return sum(len(coder.compress(part)) for part in parts) + len(coder.flush())


def _end(parts: Sequence[bytes], limit: int) -> list[bytes]:
    """Return the last ``limit`` bytes of the parts, as parts."""
    kept: list[bytes] = []
    for part in reversed(parts):
        if limit <= 0:
            break
        kept.append(part[-limit:])
        limit -= len(kept[-1])
    return kept[::-1]
