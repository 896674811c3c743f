"""What a policy makes of a text: keep, mask or drop."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from codex_ray.safety.find import find
from codex_ray.safety.finding import PLACEHOLDERS, mask

_PERSONAL = frozenset({"e-mail", "IP address", "telephone"})
assert set(PLACEHOLDERS) > _PERSONAL


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text after a policy: what is left, how much was found of each kind, and why it is to be dropped."""

    text: str
    counts: dict[str, int]
    drop: str | None


def redact(text: str, *, secrets: str, personal: str) -> Redacted:
    """Apply a policy to a text.

    Args:
        text: any text.
        secrets: ``keep`` does not look, ``mask`` writes placeholders, ``drop`` asks to drop the text.
        personal: the same for personal data.

    Returns:
        The text, masked where the policy masks; how many findings there were of each kind that was looked
        for; and the first kind found that asks for dropping, with the text then as it was.
    """
    findings = find(text, secrets=secrets != "keep", personal=personal != "keep")
    counts = dict(Counter(finding.kind for finding in findings))
    for finding in findings:
        if (personal if finding.kind in _PERSONAL else secrets) == "drop":
            return Redacted(text, counts, finding.kind)
    return Redacted(mask(text, findings), counts, None)
