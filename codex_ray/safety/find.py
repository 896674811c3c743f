"""Finding in whole texts: which lines are looked at, and what holds between rules."""

from __future__ import annotations

import re
from collections.abc import Iterator

from codex_ray.safety.finding import BREAK, PLACEHOLDER, Finding, mask, merged
from codex_ray.safety.key_blocks import key_blocks
from codex_ray.safety.personal import PERSONAL_ANCHORS, personal_in
from codex_ray.safety.secrets import LOWER_CASE_ANCHORS, SECRET_ANCHORS, secrets_in

LONGEST_PIECE = 4096
"""Longer lines are looked at in pieces of at most so many characters, cut at white space if there ."""


def find(text: str, *, secrets: bool, personal: bool) -> list[Finding]:
    """Find secrets and personal data.

    Args:
        text: any text.
        secrets: look for keys, tokens and passwords.
        personal: look for e-mail addresses, public IP addresses and telephone numbers.

    Returns:
        What was found, by place; no two overlap. Masking it leaves a text in which nothing is found, as long
        as no line is longer than :data:`LONGEST_PIECE`.
    """
    blocks = key_blocks(text) if secrets else []
    found: list[Finding] = []
    start = 0
    for block in blocks:
        found += _between(text, start, block.start, secrets, personal)
        found.append(block)
        start = block.stop
    found += _between(text, start, len(text), secrets, personal)
    return found


def _between(text: str, start: int, stop: int, secrets: bool, personal: bool) -> Iterator[Finding]:
    """Find within text[start:stop], which holds no private key; a line never goes beyond it."""
    suspicious = {
        max(start, text.rfind("\n", start, place) + 1)
        for place in _suspicious(text[start:stop], start, secrets, personal)
    }
    for first in sorted(suspicious):
        newline = text.find("\n", first, stop)
        last = newline if newline >= 0 else stop
        while first < last:
            end = first + piece_length(text[first : min(last, first + LONGEST_PIECE + 1)])
            for one in find_in_piece(text[first:end], secrets=secrets, personal=personal):
                yield Finding(one.kind, first + one.start, first + one.stop)
            first = end


def _suspicious(text: str, offset: int, secrets: bool, personal: bool) -> Iterator[int]:
    """Yield a place in every line in which something may be found, counted from ``offset``."""
    if personal:
        yield from _places(text, offset, PERSONAL_ANCHORS)
    if secrets:
        yield from _places(text, offset, SECRET_ANCHORS)
        # This letter alone becomes two in lower case, and would move all places after it.
        yield from _places(text.replace("\u0130", "i").lower(), offset, LOWER_CASE_ANCHORS)


def _places(text: str, offset: int, anchors: tuple[re.Pattern[str], ...]) -> Iterator[int]:
    for anchor in anchors:
        for match in anchor.finditer(text):
            yield offset + match.start()


def is_suspicious(line: str, *, secrets: bool, personal: bool) -> bool:
    """Tell whether a line is worth looking at: in one that is not, nothing would be found."""
    return next(_suspicious(line, 0, secrets, personal), None) is not None


def piece_length(line: str) -> int:
    """Return how much of a line is looked at together; the line's first characters are enough to tell."""
    if len(line) <= LONGEST_PIECE:
        return len(line)
    for place in range(LONGEST_PIECE, LONGEST_PIECE // 2, -1):
        if BREAK.match(line, place - 1):
            return place
    return LONGEST_PIECE


def find_in_piece(piece: str, *, secrets: bool, personal: bool) -> list[Finding]:
    """Find within one line or piece of a line.

    What only comes to light once something else is masked, because it moves closer to a word that
    explains it, is found too, so that nothing is left to be found in the masked text.
    """
    found = _once(piece, secrets, personal)
    while found:
        masked = mask(piece, found)
        more = _once(masked, secrets, personal)
        if not more:
            break
        found = merged([*found, *(_unmasked(one, masked, found) for one in more)])
    return found


def _once(piece: str, secrets: bool, personal: bool) -> list[Finding]:
    found = []
    placeholders = [match.span() for match in PLACEHOLDER.finditer(piece)]
    for finder, wanted in ((secrets_in, secrets), (personal_in, personal)):
        for finding, match in finder(piece) if wanted else ():
            # A placeholder is no part of a secret, nor evidence for one, and separates like nothing else.
            # A telephone number may be less than its match, and what follows it says nothing of it.
            first, last = match.span() if finding.kind != "telephone" else (finding.start, finding.stop)
            touched = any(start <= last and first <= stop for start, stop in placeholders)
            if not touched:
                found.append(finding)
    return merged(found)


def _unmasked(finding: Finding, masked: str, earlier: list[Finding]) -> Finding:
    """Give a finding in a masked text its place in the text before."""

    def before(place: int) -> int:
        moved = 0
        for one, shown in zip(earlier, PLACEHOLDER.finditer(masked), strict=False):
            if shown.end() > place:
                break
            moved = one.stop - shown.end()
        return place + moved

    return Finding(finding.kind, before(finding.start), before(finding.stop))
