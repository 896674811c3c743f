"""Text that is made rather than read: a source, and a filter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from codex_ray.corpus.sources.brought import TextSource


class Squares(TextSource):
    """Sentences on squares, in two parts that are read in parallel."""

    version = "1"

    def parts(self) -> Sequence[str]:
        return ["odd", "even"]

    def read(self, part: str) -> Iterator[tuple[str, str]]:
        for number in range(part == "odd", 400, 2):
            yield str(number), f"The square of {number} is {number**2}, and twice it {2 * number}.\n"


class NoSevens:
    """Takes the sevens out of texts."""

    name = "no_sevens"

    def apply(self, text: str, name: str) -> str:
        return text.replace("7", "")
