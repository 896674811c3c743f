"""What a verb is: its words, settings and function, named as text so that a table imports nothing."""

from __future__ import annotations

import importlib
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
    """

    name: str
    settings: str
    function: str
    path: str
    summary: str
    teaches: str
    examples: tuple[tuple[str, str], ...]

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

    def run(self, settings: Any) -> Any:
        """Run the verb and return its result."""
        return _named(self.function)(settings)


def _named(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)
