"""Text from token ids as they come, without half characters."""

from __future__ import annotations

import codecs

from codex_ray.tokenizer.tokenizer import Tokenizer, out_of_range

_LONGEST_PARTIAL = 3
"""UTF-8 needs at most three bytes, so at most three tokens, before a character's last."""


class StreamDecoder:
    """Turns the ids of one sequence into text, one id at a time.

    What :meth:`push` and :meth:`flush` return adds up to the decoding of all ids. A character whose bytes are
    spread over tokens appears when its last byte has come.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        # For a foreign tokenizer: the ids of the text emitted last, which the decoding of the next may
        # depend on (a leading space, say), and those not emitted yet.
        self._before: list[int] = []
        self._waiting: list[int] = []

    def push(self, token: int) -> str:
        """Take one id and return the text that is certain now; often the token's own, sometimes none.

        Raises:
            CodexRayError: the id is not of this tokenizer.
        """
        pieces = self._tokenizer.byte_pieces
        if pieces is None:
            return self._push_foreign(token)
        if not 0 <= token < len(pieces):
            raise out_of_range(len(pieces), [token])
        return self._bytes.decode(pieces[token])

    def flush(self) -> str:
        """Return what is held back, once no more ids come; an incomplete character becomes U+FFFD."""
        if self._tokenizer.byte_pieces is None:
            return self._take()
        return self._bytes.decode(b"", final=True)

    def _push_foreign(self, token: int) -> str:
        self._waiting.append(token)
        incomplete = self._tokenizer.decode(self._before + self._waiting).endswith("\ufffd")
        if incomplete and len(self._waiting) <= _LONGEST_PARTIAL:
            return ""
        return self._take()

    def _take(self) -> str:
        whole = self._tokenizer.decode(self._before + self._waiting)
        text = whole[len(self._tokenizer.decode(self._before)) :]
        if text:
            self._before, self._waiting = self._waiting, []
        return text
