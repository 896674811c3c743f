"""What a document must be to be kept: length limits and exact duplicates, each drop with its reason."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codex_ray.config.corpus import Clean
from codex_ray.corpus.read import SourceFile, UnreadableError, path_below, read_text

TOO_SHORT, TOO_LONG, DUPLICATE = "too_short", "too_long", "duplicate"


@dataclass(frozen=True)
class Scan:
    """What one file turned out to be.

    Kept when neither ``quarantined`` (why it is no text) nor ``dropped`` (a cleaning reason) is set;
    then ``sha256`` and ``size`` are those of its text, in UTF-8.
    """

    size: int = 0
    sha256: bytes = b""
    marked: bool = False
    quarantined: str | None = None
    dropped: str | None = None


def scan_file(folder: Path, file: SourceFile, settings: Clean) -> Scan:
    """Read one file, check it, and hash its text. A file over the length limit is not read to its end."""
    if file.problem:
        return Scan(quarantined=file.problem)
    try:
        read = read_text(path_below(folder, file.name), settings.max_bytes)
    except UnreadableError as error:
        return Scan(quarantined=str(error))
    if read is None:
        return Scan(size=file.size, dropped=TOO_LONG)
    text, marked = read
    data = text.encode()
    dropped = TOO_SHORT if len(data) < settings.min_bytes else None
    return Scan(len(data), hashlib.sha256(data).digest(), marked, dropped=dropped)


def duplicates(digests: Sequence[bytes]) -> list[bool]:
    """Mark every digest that is equal to an earlier one."""
    if not digests:
        return []
    keys = np.frombuffer(b"".join(digests), dtype="S32")
    _, first = np.unique(keys, return_index=True)
    repeated = np.ones(len(digests), dtype=bool)
    repeated[first] = False
    return [bool(flag) for flag in repeated]
