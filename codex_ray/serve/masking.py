"""The text of one choice on its way out: secrets masked across pieces, tokens kept in step with the text."""

from __future__ import annotations

from codex_ray.safety import StreamMask
from codex_ray.serve.events import Entry


class ChoiceText:
    """Gives back text as soon as it is known to hold no secret, and tokens once their text has been shown.

    After a secret has been masked, no more tokens are shown: they spell it out.
    """

    def __init__(self, *, mask: bool) -> None:
        self._mask = StreamMask(personal=False) if mask else None
        self._raw = self._shown = ""
        self._entries: list[tuple[int, Entry]] = []  # with the length of the text when they came
        self.masked = False

    def feed(self, text: str, entries: list[Entry]) -> tuple[str, list[Entry]]:
        """Take what comes; return what may be shown."""
        if self._mask is None:
            return text, entries
        return self._pass(self._mask.feed(text), text, entries)

    def end(self) -> tuple[str, list[Entry]]:
        """Return what is held back, when nothing more comes."""
        if self._mask is None:
            return "", []
        shown, entries = self._pass(self._mask.end(), "", [])
        if not self.masked:
            entries += [entry for _, entry in self._entries]
        return shown, entries

    def _pass(self, shown: str, text: str, entries: list[Entry]) -> tuple[str, list[Entry]]:
        assert len(self._shown) <= len(self._raw) or self.masked
        self._raw += text
        begin = len(self._shown)
        self._shown += shown
        if not self.masked and shown and self._raw[begin : begin + len(shown)] != shown:
            self.masked = True
        if self.masked:
            self._entries = []
            return shown, []
        self._entries += [(len(self._raw), entry) for entry in entries]
        ready = [entry for length, entry in self._entries if length <= len(self._shown)]
        self._entries = self._entries[len(ready) :]
        return shown, ready
