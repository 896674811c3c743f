"""Personal data within one line: e-mail addresses, public IP addresses, telephone numbers.

What is kept on purpose: addresses under the names that RFC 2606 and RFC 6761 reserve (``example.com``,
``.test`` ...), the user of a remote repository (``git@host:path``, ``ssh://git@host``), every IP address that
is not public (as in FineWeb, Penedo et al. 2024, which masks e-mail and public IP addresses), and version
numbers.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from codex_ray.safety.finding import Finding

EMAIL = re.compile(
    r"(?<![\w.+%@-])[A-Za-z0-9](?:[A-Za-z0-9._%+-]{0,62}[A-Za-z0-9_+-])?"
    r"@(?P<host>(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,6}[A-Za-z]{2,24})"
    r"(?![\w@-]|\.\w|:[\w~/])"
)

_RESERVED_HOST = re.compile(
    r"(?:^|\.)(?:example\.(?:com|org|net|edu)|example|test|invalid|localhost|local)$", re.IGNORECASE
)

_IN_ADDRESS = re.compile(r"://[^\s/@]*\Z")
_ADDRESS_REACH = 128

IPV4 = re.compile(r"(?<![\w.+-])(?<![A-Za-z]/)\d{1,3}(?:\.\d{1,3}){3}(?![\w+-]|\.\w)")
IPV6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:]|\.\w)")

_VERSION = re.compile(
    r"(?:\b(?:v|ver|version|release|rev|revision|build|section|chapter|table|figure|id)|[§<>~^=]=?|__)"
    r"[\w\"']{0,12}[\s.:=]{0,3}[\"'(]?$",
    re.IGNORECASE,
)
_VERSION_REACH = 24

TELEPHONE = re.compile(r"(?<![\w+)\]])\+\d[\d ().\-/\xa0]{6,22}\d(?!\w)")

_SHORTEST_TELEPHONE = 8

PERSONAL_ANCHORS = tuple(
    re.compile(pattern)
    for pattern in (
        *(r"@[A-Za-z0-9-]+\.", r"\.\d{1,3}\.\d{1,3}\.\d", r":[0-9A-Fa-f]{0,4}:", r"\+\d[\d ().\-/\xa0]{6}"),
    )
)
"""What a line must hold one of, for any rule of this module to find something in it."""


def personal_in(line: str) -> Iterator[tuple[Finding, re.Match[str]]]:
    """Yield personal data in one line, each with the match that shows it."""
    for match in EMAIL.finditer(line):
        in_address = _IN_ADDRESS.search(line, max(0, match.start() - _ADDRESS_REACH), match.start())
        if not in_address and not _RESERVED_HOST.search(match["host"]):
            yield Finding("e-mail", *match.span()), match
    for match in IPV4.finditer(line):
        before = line[max(0, match.start() - _VERSION_REACH) : match.start()]
        if _is_public(match[0]) and not _VERSION.search(before):
            yield Finding("IP address", *match.span()), match
    for match in IPV6.finditer(line):
        if _is_public(match[0]):
            yield Finding("IP address", *match.span()), match
    for match in TELEPHONE.finditer(line):
        span = _telephone(match[0])
        if span:
            yield Finding("telephone", match.start() + span[0], match.start() + span[1]), match


def _is_public(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


def _telephone(candidate: str) -> tuple[int, int] | None:
    """Return where in the candidate a number lies that some country could have given out."""
    import phonenumbers

    # With no default region only numbers with a country code count: "555-0100" may be anything.
    while len(candidate) > _SHORTEST_TELEPHONE:
        for match in phonenumbers.PhoneNumberMatcher(candidate, None, leniency=phonenumbers.Leniency.VALID):
            return match.start, match.end
        # A number that stands after the telephone number ("... 901820 2024") makes the whole invalid.
        candidate = candidate.rpartition(" ")[0]
    return None
