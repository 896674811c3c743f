"""Sources that packages bring: ``component:NAME`` in place of a path.

Names of items are ``PART:PLACE``, unique within the source as those of files are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from codex_ray.corpus.sources.reasons import UnreadableError
from codex_ray.corpus.sources.records import Record
from codex_ray.errors import CodexRayError
from codex_ray.plugins import find

SCHEME = "component:"


class TextSource(ABC):
    """A source of records; made without arguments, in every process that reads.

    Attributes:
        version: names what it holds now: where it is another, the text is read again.
    """

    version: str

    @abstractmethod
    def parts(self) -> Sequence[str]:
        """Return the names of what can be read apart, in parallel; the order of rows follows theirs."""

    @abstractmethod
    def read(self, part: str) -> Iterator[tuple[str, str | Mapping[str, Any]]]:
        """Give the records of a part: a place that is theirs alone, and text or columns."""


def is_brought(path: str) -> bool:
    """Whether a source's path names a component."""
    return path.startswith(SCHEME)


def source_of(path: str) -> TextSource:
    """Return the component that a path names.

    Raises:
        ConfigError: there is none.
        CodexRayError: it cannot be made, or has no version.
    """
    name = path.removeprefix(SCHEME)
    made = find("sources", name, "path of a source")
    try:
        found: TextSource = made()
        if not isinstance(found.version, str):
            raise TypeError("its version is no text")
    except Exception as error:
        raise CodexRayError(
            f"source {path} cannot be made ({type(error).__name__}: {error}); repair its package"
        ) from error
    return found


def records_of(path: str, part: str) -> Iterator[Record]:
    """Give the records of a part, as those of files are given; what fails ends in one that says why."""
    source, place = source_of(path), "0"
    try:
        for place, record in source.read(part):
            yield f":{place}", {"text": record} if isinstance(record, str) else dict(record)
    except Exception as error:
        yield f":{place}+", UnreadableError(f"cannot be read: {type(error).__name__}: {error}")
