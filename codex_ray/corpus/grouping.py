"""Cutting a list into tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def group_by_bytes(sizes: Sequence[int], limit: int) -> Iterator[slice]:
    """Cut a sequence into runs of at most ``limit`` bytes each, or of a single longer item."""
    start = held = 0
    for index, size in enumerate(sizes):
        if index > start and held + size > limit:
            yield slice(start, index)
            start, held = index, 0
        held += size
    if start < len(sizes):
        yield slice(start, len(sizes))
