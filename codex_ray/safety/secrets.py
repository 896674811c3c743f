"""Secrets within one line: tokens that services issue, and values given to names such as ``password``.

The shapes of tokens are those of detect-secrets, whose patterns are used as they are, and five that it does
not have yet (fine-grained GitHub, Anthropic, OpenAI project, Hugging Face and Google keys). Its keyword and
entropy plugins are not used: they report a value without its place, one per line, and on source code most of
what they report is no secret. :data:`ASSIGNED` and :func:`_judged` are this project's stricter rule; the
entropy and its limits are detect-secrets'.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from codex_ray.safety.finding import BREAK, Finding

BASE64_LIMIT = 4.5
"""Bits per character above which base64 text is random (detect-secrets' limit)."""

SHORT_BASE64_LIMIT = 3.9
"""The same of fewer than 40 characters: even random ones seldom reach the limit, and 20 never do."""

HEX_LIMIT = 3.0
"""The same of hexadecimal text."""

SHORTEST_RANDOM = 20
"""Shorter strings cannot tell a random value from a word."""

_NAMES = r"""
    password|passwd|passphrase|pwd|secret|api_?key|auth_?key|service_?key|account_?key|access_?key|db_?key|
    database_?key|priv_?key|private_?key|client_?key|encryption_?key|db_?pass|database_?pass|key_?pass|
    contrase[nñ]a|kennwort|token|credentials?|authorization
"""

_STEMS = ("pass", "pwd", "secret", "key", "contrase", "kennwort", "token", "credential", "author")

_PASSWORD_NAMES = re.compile(r"pass|pwd|contrase|kennwort", re.IGNORECASE)

ASSIGNED = re.compile(
    rf"""
    (?P<name>{_NAMES}) [\w-]{{0,40}} ["'`\]]{{0,2}} [ \t]{{0,4}}
    (?: :=|=>|===?|!==?|[:=] ) [ \t]{{0,4}} (?: (?:bearer|basic|token) [ ] )?
    (?: (?P<quote>["'`]) (?P<quoted>[!#-&(-_a-~]{{6,200}}) (?P=quote)
      | (?P<bare>[A-Za-z0-9_\-+/=.!@#$%^&*~?]{{8,200}}+) (?![\w(\["'`{{<:@]) )
    """,
    re.ASCII | re.IGNORECASE | re.VERBOSE,
)
"""A name that says secret, a sign of assignment, and a value without white space, in quotes or bare."""

_STAND_IN = re.compile(
    r"[<{$%\[]|\.\.\.|\*\*\*|xxx|your|example|changeme|placeholder|dummy|redacted|://", re.IGNORECASE
)
_GAP = re.compile(r" {32,}")
_HEX = re.compile(r"[0-9a-fA-F]+")
_BASE64 = re.compile(r"[A-Za-z0-9+/_=-]+")

# Each begins with letters that are always there: such patterns are searched at over 1 GB/s, which an
# alternation of them, or one that ignores case, is far from.
SECRET_ANCHORS = tuple(
    re.compile(pattern)
    for pattern in (
        *("A3T[A-Z0-9]", "ABIA", "ACCA", "AKIA", "ASIA", "AKC[a-zA-Z0-9]{10}", r"AP[\dA-F][a-zA-Z0-9]{8}"),
        *(
            "AccountKey=",
            r"://[^\s/@]+@",
            r"\.[a-zA-Z\d_-]{6}\.[a-zA-Z\d_-]{27}",
            "gh[pousr]_",
        ),
        *("gl(?:pat|dt|ft|soat|rt|cbt|imt|ptt|agent|oas)-", "GR1348941", "eyJ", "-us[0-9]", "_authToken="),
        *("T3BlbkFJ", "pypi-Ag", r"SG\.", "sq0csp-", "k_live_", ":[0-9A-Za-z_-]{35}", "AC[a-z0-9]{32}"),
        *("SK[a-z0-9]{32}", "sk-", "hf_", "AIza", "github_pat_", "npm_"),
    )
)
"""A line in which a rule that heeds case finds something holds one of these."""

LOWER_CASE_ANCHORS = tuple(
    re.compile(pattern)
    for pattern in (
        *("aws", "xox[abposr]-", "hooks.slack.com/", "api.softlayer.com/"),
        *(
            word + r"""["']?\]?(?=[ =:])[ ]*+(?::=|=>|::|[=:])?+[ ]*+["']?[a-z0-9_\-]{24}"""
            for word in ("key", "pwd", "pw", "pass", "token")
        ),
        *(
            word + r"""[\w-]{0,40}["'`\]]{0,2}[ \t]{0,4}(?:[:=]|!=)[>=]{0,2}[ \t]{0,4}["'`]?[!-~]{5}"""
            for word in _STEMS
        ),
    )
)
"""A line in which a rule that ignores case finds something holds, in lower case, one of these."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """A pattern of one kind of token; its groups, where it has any, are the secret."""

    kind: str
    pattern: re.Pattern[str]


@cache
def rules() -> tuple[_Rule, ...]:
    """Gather the patterns of tokens: detect-secrets' and this project's."""
    own = (
        ("GitHub token", r"github_pat_[A-Za-z0-9_]{60,255}"),
        ("Anthropic key", r"sk-ant-[A-Za-z0-9_-]{32,200}"),
        ("OpenAI key", r"sk-(?:proj|svcacct|admin)-[A-Za-z0-9_-]{40,200}"),
        ("Hugging Face token", r"(?<!\w)hf_[A-Za-z0-9]{34,40}(?!\w)"),
        # detect-secrets' pattern runs to the end of the line, and so depends on what comes after the token.
        ("npm token", r":_authToken=\s*(npm_[^\s\"']+|[A-Fa-f0-9-]{36})"),
        ("npm token", r"(?<!\w)npm_[A-Za-z0-9]{36}(?!\w)"),
        ("Google key", r"(?<!\w)AIza[A-Za-z0-9_-]{35}(?![\w-])"),
    )
    theirs = [
        _Rule(kind, pattern)
        for plugin, kind in plugins()
        for pattern in plugin.denylist
        if kind not in ("JWT", "npm token")
    ]
    return (*theirs, *(_Rule(kind, re.compile(pattern)) for kind, pattern in own))


@cache
def plugins() -> tuple[tuple[Any, str], ...]:
    """List detect-secrets' plugins for tokens of known shape, each with the kind its findings have here.

    Private keys are found over several lines (:mod:`codex_ray.safety.key_blocks`), addresses in
    :mod:`codex_ray.safety.personal`.
    """
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    kinds = {
        "AWS Access Key": "AWS key",
        "GitHub Token": "GitHub token",
        "GitLab Token": "GitLab token",
        "OpenAI Token": "OpenAI key",
        "Slack Token": "Slack token",
        "Stripe Access Key": "Stripe key",
        "PyPI Token": "PyPI token",
        "NPM tokens": "npm token",
        "JSON Web Token": "JWT",
        "Basic Auth Credentials": "password",
    }
    elsewhere = {
        "Private Key",
        "Public IP (ipv4)",
        "Secret Keyword",
        "Base64 High Entropy String",
        "Hex High Entropy String",
    }
    classes: dict[str, Any] = get_mapping_from_secret_type_to_class()
    return tuple(
        (classes[name](), kinds.get(name, "service token"))
        for name in sorted(classes)
        if name not in elsewhere
    )


@cache
def _jwt() -> tuple[re.Pattern[str], Any]:
    """Return a pattern for whole JSON Web Tokens and detect-secrets' test of one."""
    plugin = next(plugin for plugin, kind in plugins() if kind == "JWT")
    return re.compile(r"eyJ[A-Za-z0-9_=-]+\.[A-Za-z0-9_=-]+(?:\.[A-Za-z0-9_.+/=-]*)?"), plugin


def secrets_in(line: str) -> Iterator[tuple[Finding, re.Match[str]]]:
    """Yield what looks like a secret in one line, each with the match that shows it."""
    # The time of detect-secrets' patterns grows with the cube of a run of spaces; no assignment has one.
    gaps = [match.span() for match in _GAP.finditer(line)]
    parts = list(
        zip([0, *(stop for _, stop in gaps)], [*(start for start, _ in gaps), len(line)], strict=True)
    )
    for rule in rules():
        for match in (match for part in parts for match in rule.pattern.finditer(line, *part)):
            groups = [group for group in range(1, (rule.pattern.groups or 0) + 1) if match[group]]
            whole = rule.kind in ("GitHub token", "GitLab token") or not groups
            start, stop = match.span(0 if whole else groups[0])
            value = line[start:stop]  # Artifactory's patterns take in what stands around the token
            start += len(value) - len(value.lstrip(' \t\r=:"'))
            stop = start + len(re.split(r'[\s"]', line[start:stop], maxsplit=1)[0])
            if stop > start and not BREAK.search(line, start, stop):
                yield Finding(rule.kind, start, stop), match
    pattern, plugin = _jwt()
    for match in pattern.finditer(line):
        if plugin.is_formally_valid(".".join(match[0].split(".")[:2])):
            yield Finding("JWT", *match.span()), match
    for match in ASSIGNED.finditer(line):
        kind = _judged(match)
        if kind:
            yield Finding(kind, *match.span("quoted" if match["quoted"] else "bare")), match


def _judged(match: re.Match[str]) -> str | None:
    """Name the kind of an assigned value, or None for one that is no secret.

    Stand-ins (``<token>``, ``${TOKEN}``, ``xxxx``, ``your-key``) and addresses are none. A value that is
    random by its entropy is a secret whatever its name. Else the name must speak of a password, and the value
    must mix: two of lower case, upper case, digits and other signs in quotes; bare, which in source code may
    be any expression, letters with digits and with a sign that no name has.
    """
    value = match["quoted"] or match["bare"]
    if _STAND_IN.search(value):
        return None
    if is_random(value):
        return "high-entropy string"
    if not _PASSWORD_NAMES.search(match["name"]):
        return None
    letters = any(sign.isalpha() for sign in value)
    digits = any(sign.isdigit() for sign in value)
    signs = any(not (sign.isalnum() or sign in "_-./:,=") for sign in value)
    if match["bare"]:
        return "password" if letters and digits and signs else None
    mixed = any(sign.islower() for sign in value) and any(sign.isupper() for sign in value)
    return "password" if letters and (digits or signs or (mixed and not value.isidentifier())) else None


def is_random(value: str) -> bool:
    """Tell a random string from words and numbers by its length, alphabet, digits and entropy."""
    if len(value) < SHORTEST_RANDOM or value.isdigit() or not any(sign.isdigit() for sign in value):
        return False
    base64, hexadecimal = _entropy_of()
    if _HEX.fullmatch(value):
        return len(value) >= 32 and bool(hexadecimal(value) > HEX_LIMIT)
    if not _BASE64.fullmatch(value):
        return False
    return bool(base64(value) > (BASE64_LIMIT if len(value) >= 40 else SHORT_BASE64_LIMIT))


@cache
def _entropy_of() -> tuple[Any, Any]:
    from detect_secrets.plugins.high_entropy_strings import Base64HighEntropyString, HexHighEntropyString

    base64, hexadecimal = Base64HighEntropyString(BASE64_LIMIT), HexHighEntropyString(HEX_LIMIT)
    return base64.calculate_shannon_entropy, hexadecimal.calculate_shannon_entropy
