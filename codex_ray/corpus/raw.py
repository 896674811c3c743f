"""Documents before they are documents: what a source holds, and why some of it is no text.

Every item that a source holds ends in one of three ways, each counted: kept (a document), dropped (a
cleaning rule rejected it) or quarantined (it cannot be read as text).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Raw:
    """One document as its source holds it; ``bytes`` have not been decoded yet.

    ``name`` is unique within its source: a path below it, with ``:`` and the record's place in its file.
    """

    name: str
    content: bytes | str


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An item that cannot be read as text; ``reason`` is a kind, a colon, and what was found."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """What a cleaning step says of a document that it rejects: its rule, and what the rule saw."""

    rule: str
    detail: str
