"""How well masking finds secrets and personal data: precision and recall on texts whose labels are known.

The texts are made here, so that no secret in them is anybody's: real forms with drawn letters, and beside
them what only looks like them (hashes, versions, placeholders, documentation addresses).
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from codex_ray.config.evaluate import Bootstrap
from codex_ray.evaluate.intervals import Interval, bootstrap
from codex_ray.evaluate.metrics import mean
from codex_ray.safety import find

LETTERS, UPPER = string.ascii_letters + string.digits, string.ascii_uppercase + string.digits


@dataclass(frozen=True)
class Labelled:
    """A text, and what is to be masked in it; nothing in one that only looks like it."""

    text: str
    secret: str | None


def _drawn(draw: random.Random, signs: str, count: int) -> str:
    return "".join(draw.choice(signs) for _ in range(count))


SECRETS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "AWS key": lambda draw: ("aws_access_key_id = {}", "AKIA" + _drawn(draw, UPPER, 16)),
    "GitHub token": lambda draw: ("git clone https://{}@github.com/x/y", "ghp_" + _drawn(draw, LETTERS, 36)),
    "password": lambda draw: ('db_password = "{}"', _drawn(draw, LETTERS, 16)),
    "e-mail": lambda draw: (
        "Write to {} soon.",
        f"{_drawn(draw, string.ascii_lowercase, 7)}@{_drawn(draw, string.ascii_lowercase, 6)}.com",
    ),
    "IP address": lambda draw: ("host {} is down", f"{draw.randint(11, 99)}.{draw.randint(1, 250)}.7.9"),
    "telephone": lambda draw: ("Call {} today.", f"+49 30 {draw.randint(2_000_000, 8_999_999)}"),
}
"""By kind: a sentence with a place for a secret, and the secret."""

LOOKALIKES: tuple[Callable[[random.Random], str], ...] = (
    lambda draw: f"sha256 {_drawn(draw, '0123456789abcdef', 64)}",
    lambda draw: f"version {draw.randint(1, 9)}.{draw.randint(0, 40)}.{draw.randint(0, 9)}",
    lambda draw: 'password = "changeme"',
    lambda draw: "user@example.com is an example",
    lambda draw: f"listen on 127.0.0.1:{draw.randint(1024, 9999)}",
    lambda draw: f"order {draw.randint(10**6, 10**7)} of {draw.randint(1, 28)}.11.2026",
)


def labelled_texts(count: int, seed: int) -> list[Labelled]:
    """Return ``count`` texts, every second of them without a secret; the same ones for a seed."""
    draw, kinds, found = random.Random(seed), list(SECRETS), []
    for number in range(count):
        if number % 2:
            found.append(Labelled(LOOKALIKES[number // 2 % len(LOOKALIKES)](draw), None))
        else:
            sentence, secret = SECRETS[kinds[number // 2 % len(kinds)]](draw)
            found.append(Labelled(sentence.format(secret), secret))
    return found


def measure_redaction(count: int, seed: int, settings: Bootstrap) -> dict[str, Interval]:
    """Return precision and recall of what masking finds, with their intervals.

    A finding is right where it covers a labelled secret; one in a text without a secret counts against
    precision. Recall is the share of secrets that are covered.
    """
    precision, recall = [], []
    for one in labelled_texts(count, seed):
        findings = find(one.text, secrets=True, personal=True)
        start = one.text.index(one.secret) if one.secret else -1
        covered = [
            one.secret is not None and each.start <= start and each.stop >= start + len(one.secret)
            for each in findings
        ]
        precision.append([float(sum(covered)), float(len(covered))])
        if one.secret is not None:
            recall.append([float(any(covered)), 1.0])
    found_some = np.array([row for row in precision if row[1]] or [[0.0, 1.0]])
    return {
        "precision": bootstrap(found_some, mean, settings),
        "recall": bootstrap(np.array(recall), mean, settings),
    }
