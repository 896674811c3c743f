"""The account of what became of every item of a source: read = kept + dropped + quarantined."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from codex_ray.corpus.raw import Dropped, Quarantined

SAMPLES = 3  # kept per reason
SAMPLE_CHARACTERS = 200
DUPLICATE, NEAR_DUPLICATE = "duplicate", "near_duplicate"


@dataclass
class Account:
    """Counts of one task or, added up, of one source.

    Attributes:
        read: items found, whether text or not.
        kept: documents, and ``bytes``, their text in UTF-8.
        dropped: documents per cleaning rule; ``quarantined``: items per kind of what is wrong with them.
        changed: documents that a step changed, per step.
        samples: for each reason a few items: name, what the rule saw, and how the text begins.
        sizes: kept documents by the binary logarithm of their bytes.
    """

    read: int = 0
    kept: int = 0
    bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    sizes: Counter[str] = field(default_factory=Counter)

    def keep(self, size: int, changed: tuple[str, ...]) -> None:
        """Count a kept document of ``size`` bytes."""
        self.read += 1
        self.kept += 1
        self.bytes += size
        self.changed.update(changed)
        self.sizes[str(max(size, 1).bit_length() - 1)] += 1

    def drop(self, name: str, dropped: Dropped, text: str) -> None:
        """Count a document that a rule rejected."""
        self.read += 1
        self.dropped[dropped.rule] += 1
        self.sample(dropped.rule, name, dropped.detail, text)

    def quarantine(self, item: Quarantined) -> None:
        """Count an item that is no text."""
        self.read += 1
        kind, _, detail = item.reason.partition(": ")
        self.quarantined[kind] += 1
        self.sample(kind, item.name, detail, "")

    def wants(self, reason: str) -> bool:
        """Tell whether another example of a reason would be remembered."""
        return len(self.samples.get(reason, ())) < SAMPLES

    def sample(self, reason: str, name: str, detail: str, text: str) -> None:
        """Remember an example of a reason, if few are known."""
        known = self.samples.setdefault(reason, [])
        if len(known) < SAMPLES:
            known.append({"name": name, "detail": detail, "begins": text[:SAMPLE_CHARACTERS]})

    def repeated(self, rule: str, size: int) -> None:
        """Turn a kept document into one dropped as a duplicate."""
        self.kept -= 1
        self.bytes -= size
        self.dropped[rule] += 1
        self.sizes[str(max(size, 1).bit_length() - 1)] -= 1

    def add(self, other: Account) -> None:
        """Add another account to this one."""
        self.read += other.read
        self.kept += other.kept
        self.bytes += other.bytes
        for name in ("dropped", "quarantined", "changed", "sizes"):
            getattr(self, name).update(getattr(other, name))
        for reason, samples in other.samples.items():
            known = self.samples.setdefault(reason, [])
            known += samples[: SAMPLES - len(known)]

    def plain(self) -> dict[str, Any]:
        """Return plain data, in an order that does not depend on that of counting."""
        # dataclasses.asdict would count the pairs of a Counter anew
        data: dict[str, Any] = {"read": self.read, "kept": self.kept, "bytes": self.bytes}
        for name in ("dropped", "quarantined", "changed", "samples"):
            data[name] = dict(sorted(getattr(self, name).items()))
        sizes = sorted((int(size), count) for size, count in self.sizes.items() if count)
        return data | {"sizes": {str(size): count for size, count in sizes}}

    @classmethod
    def from_plain(cls, data: dict[str, Any]) -> Account:
        """Return the account that :meth:`plain` described."""
        counts = {name: Counter(data[name]) for name in ("dropped", "quarantined", "changed", "sizes")}
        samples = {reason: list(items) for reason, items in data["samples"].items()}
        return cls(data["read"], data["kept"], data["bytes"], samples=samples, **counts)
