"""What is found, and what is written in its place."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

PLACEHOLDERS = {
    "private key": "<PRIVATE_KEY>",
    "AWS key": "<AWS_KEY>",
    "GitHub token": "<GITHUB_TOKEN>",
    "GitLab token": "<GITLAB_TOKEN>",
    "OpenAI key": "<OPENAI_KEY>",
    "Anthropic key": "<ANTHROPIC_KEY>",
    "Hugging Face token": "<HUGGING_FACE_TOKEN>",
    "Google key": "<GOOGLE_KEY>",
    "Slack token": "<SLACK_TOKEN>",
    "Stripe key": "<STRIPE_KEY>",
    "PyPI token": "<PYPI_TOKEN>",
    "npm token": "<NPM_TOKEN>",
    "service token": "<SERVICE_TOKEN>",
    "JWT": "<JWT>",
    "password": "<PASSWORD>",
    "high-entropy string": "<HIGH_ENTROPY_STRING>",
    "e-mail": "<EMAIL>",
    "IP address": "<IP_ADDRESS>",
    "telephone": "<TELEPHONE>",
}
"""What stands in place of each kind, the most specific kind first. These never change their meaning."""

PLACEHOLDER = re.compile("|".join(re.escape(text) for text in PLACEHOLDERS.values()))

BREAK = re.compile(r"[\s\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]")
"""No token, password or address holds white space or a character of a script written without spaces."""

_RANK = {kind: rank for rank, kind in enumerate(PLACEHOLDERS)}


@dataclass(frozen=True, slots=True)
class Finding:
    """One secret or piece of personal data: ``text[start:stop]`` is of this kind."""

    kind: str
    start: int
    stop: int


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings and join those that overlap, under the name of the most specific.

    The joined finding covers all of them, so that no end of a longer one is left standing.
    """
    result: list[Finding] = []
    for finding in sorted(findings, key=lambda one: (one.start, -one.stop)):
        if result and finding.start < result[-1].stop:
            last = result[-1]
            kind = min(last.kind, finding.kind, key=_RANK.__getitem__)
            result[-1] = Finding(kind, last.start, max(last.stop, finding.stop))
        else:
            result.append(finding)
    return result


def mask(text: str, findings: Iterable[Finding]) -> str:
    """Write each finding's placeholder in its place; ``findings`` are sorted and do not overlap."""
    parts: list[str] = []
    done = 0
    for finding in findings:
        parts += (text[done : finding.start], PLACEHOLDERS[finding.kind])
        done = finding.stop
    parts.append(text[done:])
    return "".join(parts)
