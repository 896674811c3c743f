"""What one check found, and how findings of several nodes become one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

OK, NOTE, FAILED = "ok", "note", "failed"
_WORST_FIRST = (FAILED, NOTE, OK)


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes:
        name: what was looked at.
        state: ``ok``; ``note``, where only some uses need what is missing; ``failed``.
        found: what there is, with figures.
        remedy: what to do; empty where nothing is to be done.
        figures: the same for machines, by name with the unit at its end.
    """

    name: str
    state: str
    found: str
    remedy: str = ""
    figures: Mapping[str, Any] | None = None


def guarded(name: str, check: Callable[[], Finding]) -> Finding:
    """Run a check; one that breaks is a finding too, and the others go on."""
    try:
        return check()
    except Exception as error:
        words = " ".join(str(error).split()) or "no message"
        remedy = f"look into what this says; `codex-ray doctor` could not finish its check of {name}"
        return Finding(name, FAILED, f"{type(error).__name__}: {words}", remedy)


def of_all_nodes(found: Mapping[str, Sequence[Finding]]) -> list[Finding]:
    """Make one line of each check that all nodes ran: the worst of them, and the nodes that say so.

    Args:
        found: the findings of each node, by its address.
    """
    names = dict.fromkeys(finding.name for findings in found.values() for finding in findings)
    return [_of_nodes(name, found) for name in names]


def _of_nodes(name: str, found: Mapping[str, Sequence[Finding]]) -> Finding:
    told = {node: finding for node, findings in found.items() for finding in findings if finding.name == name}
    state = next(state for state in _WORST_FIRST if any(one.state == state for one in told.values()))
    worst = {node: finding for node, finding in told.items() if finding.state == state}
    first = next(iter(worst.values()))
    figures = {node: finding.figures for node, finding in told.items() if finding.figures}
    if len({finding.found for finding in worst.values()}) == 1:
        nodes = "all nodes" if len(worst) == len(found) > 1 else ", ".join(worst)
        return replace(first, found=f"{first.found} ({nodes})", figures=figures or None)
    words = "; ".join(f"{node}: {finding.found}" for node, finding in worst.items())
    return replace(first, found=words, figures=figures or None)
