"""What a verb is: its words, settings and function, named as text so that a table imports nothing."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Verb:
    """One verb of the command line.

    Attributes:
        name: the words that choose it.
        settings: ``module:Class`` of its settings.
        function: ``module:function`` taking these settings.
        path: the setting that a bare PATH on the command line fills, or several, in order, with spaces
            between; one that ends with ``...`` is a list that takes all of them; empty for none.
        summary: one line for the list of verbs.
        teaches: what it reads, does and writes, for ``--help``.
        examples: three ``(command words, what they do)``.
        sorter: ``module:function`` that takes the words and returns those of this verb's settings, and what
            the others come to, by key; empty where all are its own.
        preview: ``module:function`` taking the settings: text that ``--dry-run`` prints below them.
    """

    name: str
    settings: str
    function: str
    path: str
    summary: str
    teaches: str
    examples: tuple[tuple[str, str], ...]
    sorter: str = ""
    preview: str = ""

    @property
    def paths(self) -> list[str]:
        """The settings that bare PATHs fill, in order."""
        return self.path.removesuffix("...").split()

    @property
    def takes_any(self) -> bool:
        """Whether there may be any number of PATHs, for one list."""
        return self.path.endswith("...")

    @property
    def settings_class(self) -> type[Any]:
        """The settings dataclass, imported on first use."""
        settings: type[Any] = _named(self.settings)
        return settings

    def sort(self, words: Sequence[str]) -> tuple[Sequence[str], list[tuple[tuple[str, ...], Any]]]:
        """Tell words of this verb's own settings from others; see ``sorter``."""
        if not self.sorter:
            return words, []
        own, others = _named(self.sorter)(words)
        return own, others

    def shown(self, settings: Any) -> str:
        """Return what ``--dry-run`` prints below the settings."""
        return str(_named(self.preview)(settings)) if self.preview else ""

    def run(self, settings: Any) -> Any:
        """Run the verb and return its result."""
        return _named(self.function)(settings)


def _named(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)
