"""Private keys: a line that says BEGIN, what belongs to the key, and the line that says END.

A BEGIN line alone, as in the source of a program that reads keys, is no secret: at least one run of
:data:`SHORTEST_RUN` characters of base64 must follow it.
"""

from __future__ import annotations

import re

from codex_ray.safety.finding import Finding

SHORTEST_RUN = 20
"""A run of base64 at least this long is part of a key; prose after a BEGIN line has no such runs."""

BEGIN = re.compile(
    r"-{4,5} ?BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)? ?-{4,5}"
    r"|PuTTY-User-Key-File-[23]:[^\n]{0,80}"
)

# Units are possessive: each character of a block is looked at once, whatever follows it.
_BODY = re.compile(
    r"""
    (?: \\[nrt]
      | [\s"'`\\+,;#*>|()]
      | [A-Za-z0-9+/=]{20,}+
      | (?<=\n) [A-Z][A-Za-z-]{2,30}:[ ][^\n]{0,200}
      | [A-Za-z0-9+/=]{1,19} (?= (?: \\[nrt] | [\s"'`\\+,;#*>|()] ){0,30} -{4,5}[ ]?END[ ] )
    )*+
    """,
    re.VERBOSE,
)
_RUN = re.compile(r"[A-Za-z0-9+/]{20}")
_END = re.compile(r"-{4,5} ?END (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)? ?-{4,5}")
_LAST = re.compile(r"[^\s\"'`\\+,;#*>|()](?=[\s\"'`\\+,;#*>|()]*\Z)")

LONGEST_HEAD = 4096
"""The base64 of a key begins at most this many characters after its BEGIN line."""

REACH = 320
"""Characters after the end of what has been seen of a block that can still change where it ends."""

OPENING = re.compile(r"(?:-{1,5} ?(?:B(?:E(?:G(?:I(?:N[A-Z0-9 ]{0,60}-{0,5})?)?)?)?)?|PuTTY-[^\n]{0,100})\Z")
"""The end of a text that may be the first part of a BEGIN line."""


def block_at(text: str, begin: re.Match[str]) -> tuple[int, bool, int]:
    """Return where the block ends that a BEGIN line opens, whether it holds a key, and where looking ended.

    Without its END line a block ends with the last character of the key; white space and quotes after that
    are not the key's.
    """
    body = _BODY.match(text, begin.end())
    assert body is not None  # it matches the empty string
    key = _RUN.search(text, begin.end(), min(body.end(), begin.end() + LONGEST_HEAD)) is not None
    end = _END.match(text, body.end())
    if end:
        return end.end(), key, end.end()
    last = _LAST.search(body[0])
    return begin.end() + (last.end() if last else 0), key, body.end()


def without_middle(text: str, begin: re.Match[str], looked: int) -> str:
    """Cut the middle out of a private key seen up to ``looked``, such that its end is found alike."""
    stand_in = text[: begin.end()] + "\n" + "A" * SHORTEST_RUN
    newline = text.rfind("\n", begin.end(), looked - REACH)
    if newline >= 0:
        return stand_in + text[newline:]
    runs = list(_RUN.finditer(text, begin.end(), looked - REACH))
    return stand_in + text[runs[-1].end() :] if runs else text


def key_blocks(text: str) -> list[Finding]:
    """Find the private keys of a text."""
    found: list[Finding] = []
    begin = BEGIN.search(text)
    while begin:
        stop, key, _ = block_at(text, begin)
        if key:
            found.append(Finding("private key", begin.start(), stop))
        begin = BEGIN.search(text, stop if key else begin.end())
    return found
