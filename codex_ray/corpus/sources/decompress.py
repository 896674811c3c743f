"""Decompressing in bounded memory, and only as much as an allowance has: bombs end as one item."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Iterator
from typing import Any

from codex_ray.corpus.sources.reasons import UnreadableError, damaged
from codex_ray.corpus.sources.streams import CHUNK, DAMAGE, Readable, chunks

FLOOR = 64 * 2**20  # less than this is never called a bomb
WINDOW = 2**27  # longest history a compressed file may ask for, and with it the memory


class Allowance:
    """How many bytes a compressed file may give; what is inside it draws on it too."""

    def __init__(self, compressed: int, expansion: float, parent: Allowance | None = None) -> None:
        self.expansion = expansion
        self.parent = parent
        self.compressed = compressed
        self.given = 0

    @property
    def limit(self) -> int:
        """The most bytes it may give."""
        return max(FLOOR, int(self.compressed * self.expansion))

    @property
    def exceeded(self) -> bool:
        """Whether it has given more."""
        return self.given > self.limit

    def charge(self, count: int) -> None:
        """Count bytes given.

        Raises:
            UnreadableError: they are too many.
        """
        allowance: Allowance | None = self
        while allowance:
            allowance.given += count
            allowance = allowance.parent
        if self.exceeded:
            raise UnreadableError(f"expands too far: more than {self.limit} bytes from {self.compressed}")
        if self.parent:
            self.parent.charge(0)


def decompressed(stream: Readable, compression: str | None, allowance: Allowance) -> Iterator[bytes]:
    """Yield a stream's bytes decompressed, and only as many as ``allowance`` has.

    Members that follow each other are one file, as the command line tools read them. What was decoded in
    the last step before damage shows (up to ``CHUNK`` bytes) is not given, since it may be wrong already.

    Raises:
        UnreadableError: after all that could be read, when it is damaged, cut short or a bomb.
    """
    if compression is None:
        yield from chunks(stream)
        return
    new = _DECOMPRESSORS[compression]
    decoder, begun, consumed = new(), False, 0
    for chunk in chunks(stream):
        consumed += len(chunk)
        allowance.compressed = max(allowance.compressed, consumed)  # the size of a stream may be unknown
        pieces = [chunk[at : at + decoder.piece] for at in range(0, len(chunk), decoder.piece)]
        for data in pieces:
            while True:
                if decoder.eof:  # zeros may pad the end; anything else is another member
                    data = data.lstrip(b"\0")
                    if not data:
                        break
                    decoder = new()
                begun = True
                try:
                    given = decoder.decompress(data, CHUNK)
                except (*DAMAGE, decoder.error) as error:
                    raise damaged(error) from error
                allowance.charge(len(given))
                if given:
                    yield given
                data = decoder.unused_data if decoder.eof else b""
                if decoder.needs_input and not decoder.eof:
                    break
    if not begun or not decoder.eof:
        raise UnreadableError(f"damaged: the {compression} data ends too soon")


class _Gzip:
    error = zlib.error
    piece = CHUNK

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(31)
        self.needs_input = True

    def decompress(self, data: bytes, most: int) -> bytes:
        given = self._decoder.decompress(self._decoder.unconsumed_tail + data, most)
        self.needs_input = not self._decoder.unconsumed_tail and len(given) < most
        return given

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data


class _Zstd:
    """Output cannot be bounded here, so input is: a block of four bytes gives at most 128 KiB."""

    piece = 256
    needs_input = True

    def __init__(self) -> None:
        import zstandard

        self.error = zstandard.ZstdError
        self._decoder = zstandard.ZstdDecompressor(max_window_size=WINDOW).decompressobj()

    def decompress(self, data: bytes, most: int) -> bytes:
        return self._decoder.decompress(data)

    @property
    def eof(self) -> bool:
        return bool(self._decoder.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._decoder.unused_data)


class _Standard:
    """The bz2 and xz decoders of the standard library."""

    error = lzma.LZMAError
    piece = CHUNK

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder

    def decompress(self, data: bytes, most: int) -> bytes:
        return bytes(self._decoder.decompress(data, most))

    @property
    def needs_input(self) -> bool:
        return bool(self._decoder.needs_input)

    @property
    def eof(self) -> bool:
        return bool(self._decoder.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._decoder.unused_data)


_DECOMPRESSORS: dict[str, Any] = {
    "gzip": _Gzip,
    "zstd": _Zstd,
    "bz2": lambda: _Standard(bz2.BZ2Decompressor()),
    "xz": lambda: _Standard(lzma.LZMADecompressor(memlimit=2 * WINDOW)),
}
