"""Masking a text that arrives in pieces, as a model writes it."""

from __future__ import annotations

import re

from codex_ray.safety.find import LONGEST_PIECE, find_in_piece, is_suspicious, piece_length
from codex_ray.safety.finding import BREAK, PLACEHOLDERS, Finding, mask
from codex_ray.safety.key_blocks import BEGIN, LONGEST_HEAD, OPENING, REACH, block_at, without_middle

_LONGEST_OPENING = 128
_TELEPHONE = re.compile(r"\+[\d ().\-/\xa0]{0,40}\Z")
_KEY_KEPT = 2 * LONGEST_PIECE


class StreamMask:
    """Masks a stream: what is shown joins to ``mask(text, find(text))``, however the text was cut.

    Held back are the last word, since it may become a token or an address; a telephone number or a BEGIN line
    that may go on; and, once a BEGIN line is there, all that belongs to the private key. That is at most
    :data:`HOLDBACK` characters, private keys apart, and in prose seldom more than one word.

    A longer word is looked at in pieces, in streams as in whole texts, so that a finding longer than a piece
    is found only as far as one piece shows it. A private key of any length is withheld to its END line, or to
    the first text that is no key, and masked as one.
    """

    HOLDBACK = LONGEST_PIECE + _LONGEST_OPENING

    def __init__(self, *, secrets: bool = True, personal: bool = True) -> None:
        self._secrets = secrets
        self._personal = personal
        self._held = ""  # from the start of the line, or of the piece of one, that is not yet complete
        self._shown = 0  # characters of it that have been shown, kept for what they say of the rest
        self._passed = 0  # where to look for the next BEGIN line; those before it open no key

    def feed(self, piece: str) -> str:
        """Take what comes next; return what can be shown."""
        self._held += piece
        return self._settle(final=False)

    def end(self) -> str:
        """Return what was held back; the next text begins anew."""
        return self._settle(final=True)

    def _settle(self, final: bool) -> str:
        parts: list[str] = []
        while self._held:
            begin = self._begin()
            if begin:
                stop, key, looked = block_at(self._held, begin)
                headless = not key and looked > begin.end() + LONGEST_HEAD
                if looked + REACH > len(self._held) and not (final or headless):
                    if key and len(self._held) > _KEY_KEPT:
                        self._held = without_middle(self._held, begin, looked)
                    parts.append(self._early(begin.start()))
                    break
                if not key:
                    self._passed = begin.end()
                    continue
                parts += (self._close(begin.start()), PLACEHOLDERS["private key"])
                self._held = self._held[stop - begin.start() :]
                continue
            last = self._complete(final)
            if last is None:
                parts.append(self._early(piece_length(self._held[: LONGEST_PIECE + 1])))
                break
            parts.append(self._close(last))
            if self._held.startswith("\n"):
                parts.append("\n")
                self._held = self._held[1:]
                self._passed = max(0, self._passed - 1)
        return "".join(parts)

    def _line_stop(self) -> int:
        newline = self._held.find("\n")
        return len(self._held) if newline < 0 else newline

    def _begin(self) -> re.Match[str] | None:
        """Return the BEGIN line in the piece at hand that has not been looked at."""
        begin = BEGIN.search(self._held, self._passed) if self._secrets else None
        if begin and begin.start() <= min(self._line_stop(), LONGEST_PIECE):
            return begin
        return None

    def _complete(self, final: bool) -> int | None:
        """Return where the piece at hand ends, None while it may go on."""
        stop = self._line_stop()
        ended = final or stop < len(self._held)
        if stop > LONGEST_PIECE:
            # A BEGIN line that ends the piece is complete only a little after it.
            return piece_length(self._held[: LONGEST_PIECE + 1]) if ended or stop >= self.HOLDBACK else None
        return stop if ended else None

    def _close(self, stop: int) -> str:
        """Take a whole piece off what is held, and return what was not shown of it, masked."""
        rest = self._masked(self._held[:stop], self._shown, stop)
        self._held = self._held[stop:]
        self._shown = 0
        self._passed = max(0, self._passed - stop)
        return rest

    def _early(self, limit: int) -> str:
        """Show what no continuation of the piece at hand can change, up to ``limit``."""
        stop = limit
        while stop > self._shown and not BREAK.match(self._held, stop - 1):
            stop -= 1
        for tail, wanted in ((_TELEPHONE, self._personal), (OPENING, self._secrets)):
            match = tail.search(self._held, max(self._shown, len(self._held) - _LONGEST_OPENING))
            if wanted and match:
                stop = min(stop, match.start())
        if stop <= self._shown:
            return ""
        for one in self._findings(self._held[:limit]):
            if one.start < stop < one.stop:
                stop = one.start
        start, self._shown = self._shown, stop
        return self._masked(self._held[:limit], start, stop)

    def _masked(self, piece: str, start: int, stop: int) -> str:
        """Mask piece[start:stop]; no finding of the piece lies across either end."""
        inside = [
            Finding(one.kind, one.start - start, one.stop - start)
            for one in self._findings(piece)
            if start <= one.start and one.stop <= stop
        ]
        return mask(piece[start:stop], inside)

    def _findings(self, piece: str) -> list[Finding]:
        if not is_suspicious(piece, secrets=self._secrets, personal=self._personal):
            return []
        return find_in_piece(piece, secrets=self._secrets, personal=self._personal)
