"""The steps that are adapters: length limits, the quality rules, and redaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from codex_ray.config.corpus import Redact
from codex_ray.corpus.cleaning.words import View
from codex_ray.corpus.raw import Dropped


class Step(Protocol):
    """One step of the chain; a user's own may be one.

    ``name`` says what it did where it changes a text.
    """

    name: str

    def apply(self, text: str, name: str) -> str | Dropped:
        """Return the document's text, changed or not, or drop it. ``name`` is the document's."""
        ...


class Length:
    """Drop documents that are too short or too long, in bytes of UTF-8."""

    name = "length"

    def __init__(self, smallest: int, largest: int) -> None:
        self.smallest = smallest
        self.largest = largest

    def apply(self, text: str, name: str) -> str | Dropped:
        """Measure the text; characters are counted first, which is often enough."""
        size = len(text) if text.isascii() else len(text.encode())
        if size < self.smallest:
            return Dropped("length/too_short", f"{size} bytes < {self.smallest}")
        if size > self.largest:
            return Dropped("length/too_long", f"{size} bytes > {self.largest}")
        return text


class Views:
    """The view of the text that was looked at last: steps in a row share it."""

    def __init__(self) -> None:
        self._last = View("")

    def of(self, text: str) -> View:
        """Return the text's view."""
        if text is not self._last.text:
            self._last = View(text)
        return self._last


class Quality:
    """Judge the words and lines of a text by one family of rules.

    Args:
        name: what the step did, where its rules cut lines.
        rules: the rules; they return the text that is left, a drop, or nothing.
        views: shared with the other families.
    """

    def __init__(self, name: str, rules: Callable[[View], str | Dropped | None], views: Views) -> None:
        self.name = name
        self._rules = rules
        self._views = views

    def apply(self, text: str, name: str) -> str | Dropped:
        """Apply the rules."""
        verdict = self._rules(self._views.of(text))
        return text if verdict is None or verdict == text else verdict


class Redaction:
    """Mask secrets and personal data, or drop the documents that hold them."""

    name = "masked"

    def __init__(self, settings: Redact) -> None:
        from codex_ray.safety import redact

        self._redact = redact
        self._settings = settings

    def apply(self, text: str, name: str) -> str | Dropped:
        """Mask, or drop, as the settings say."""
        done = self._redact(text, secrets=self._settings.secrets, personal=self._settings.personal)
        if done.drop is None:
            return str(done.text)
        return Dropped("redact", f"{done.drop}, {done.counts[done.drop]} of them")
