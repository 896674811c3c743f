"""Stop strings on streamed text: nothing that may be part of one is shown before it is sure not to be."""

from __future__ import annotations

from collections.abc import Sequence

from codex_ray.errors import ConfigError


class StopText:
    """Text that grows piece by piece and ends before the first stop string in it.

    Whatever the pieces, the parts that :meth:`push` and :meth:`finish` return add up to :attr:`text`, and
    :attr:`text` is the whole text cut where the stop string that is complete first begins.

    Raises:
        ConfigError: an empty stop string, which would end every text.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        if any(not word for word in stop):
            raise ConfigError("a stop string is empty; give at least one character, or leave `stop` out")
        self.text = ""
        self.stopped = False
        self._stop = tuple(stop)
        self._longest = max(map(len, stop), default=0)
        self._shown = 0

    def push(self, piece: str) -> str:
        """Add ``piece`` and return the text that can now be shown."""
        searched = max(0, len(self.text) - self._longest + 1)
        self.text += piece
        found = [
            (place + len(word), place)
            for word in self._stop
            if (place := self.text.find(word, searched)) >= 0
        ]
        if found:
            self.text = self.text[: min(found)[1]]
            self.stopped = True
            return self.finish()
        return self._show(len(self.text) - self._held())

    def finish(self) -> str:
        """Return the text still held back, when nothing more will come."""
        return self._show(len(self.text))

    def _held(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = min(self._longest - 1, len(self.text))
        for length in range(longest, 0, -1):
            end = self.text[-length:]
            if any(word.startswith(end) for word in self._stop):
                return length
        return 0

    def _show(self, stop: int) -> str:
        part = self.text[self._shown : stop]
        self._shown = max(self._shown, stop)
        return part
