"""Bytes in order: the chunks of a file, files over chunks, and lines of bounded length."""

from __future__ import annotations

import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import Protocol

from codex_ray.corpus.sources.reasons import damaged, too_large

CHUNK = 2**18
# Everything that the standard library's readers are known to raise on damaged or hostile input.
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    OverflowError,
    RuntimeError,  # an encrypted member; an unknown method, as NotImplementedError
)


class Readable(Protocol):
    """What is read in order."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes, none at the end."""
        ...


def chunks(stream: Readable) -> Iterator[bytes]:
    """Yield a stream's bytes.

    Raises:
        UnreadableError: what is behind it is damaged or cannot be read.
    """
    while True:
        try:
            chunk = stream.read(CHUNK)
        except DAMAGE as error:
            raise damaged(error) from error
        if not chunk:
            return
        yield chunk


class Pipe:
    """A file that is read in order, over chunks; ``position`` counts the bytes given."""

    def __init__(self, source: Iterator[bytes]) -> None:
        self._source = source
        self._held = b""
        self._failure: BaseException | None = None
        self.position = 0
        self.closed = False

    def read(self, size: int = -1, /) -> bytes:
        """Return ``size`` bytes, or all; fewer only before the end or damage, which the next call raises."""
        parts, count = [self._held], len(self._held)
        while self._failure is None and (size < 0 or count < size):
            try:
                part = next(self._source, b"")
            except Exception as error:
                self._failure = error
                break
            if not part:
                break
            parts.append(part)
            count += len(part)
        data = b"".join(parts)
        cut = len(data) if size < 0 else size
        data, self._held = data[:cut], data[cut:]
        if not data and size and self._failure is not None:
            raise self._failure
        self.position += len(data)
        return data

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def writable(self) -> bool:
        """Say that it cannot be written."""
        return False

    def seekable(self) -> bool:
        """Say that it goes only forward."""
        return False

    def close(self) -> None:
        """Give no more."""
        self.closed = True


def read_all(source: Iterator[bytes], limit: int, what: str) -> bytes:
    """Return all bytes of a small thing.

    Raises:
        UnreadableError: it is longer than ``limit``, of which no more is held.
    """
    parts, count = [], 0
    for chunk in source:
        count += len(chunk)
        if count > limit:
            raise too_large(what, limit)
        parts.append(chunk)
    return b"".join(parts)


class Lines:
    """The lines of a file, without their line feed; None in place of one longer than ``longest``.

    While a line is out, ``offset`` is where it begins and ``number`` says which it is, from 1; after an
    error, which line could not be completed.
    """

    def __init__(self, source: Iterator[bytes], longest: int, offset: int = 0) -> None:
        self._source = source
        self._longest = longest
        self.offset = offset
        self.number = 1

    def __iter__(self) -> Iterator[bytes | None]:
        held: list[bytes] = []
        size = 0
        for chunk in self._source:
            begin = 0
            while (end := chunk.find(b"\n", begin)) >= 0:
                size += end - begin
                held.append(chunk[begin:end])
                yield b"".join(held) if size <= self._longest else None
                self.offset += size + 1
                self.number += 1
                held, size, begin = [], 0, end + 1
            size += len(chunk) - begin
            if size <= self._longest:
                held.append(chunk[begin:])
            else:
                held = []  # too long already: what is left of it is only counted
        if size:
            yield b"".join(held) if size <= self._longest else None
