"""The ``doctor`` verb: look, print, and fail where something is failed."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence

from codex_ray.config.doctor import Doctor
from codex_ray.doctor.finding import FAILED, Finding, guarded
from codex_ray.doctor.links import meet_here
from codex_ray.doctor.machine import address_of, machine_findings, ports, silent
from codex_ray.errors import CodexRayError

FORMAT_VERSION = 1


def doctor_verb(settings: Doctor) -> list[Finding]:
    """Print what this machine or cluster has and lacks, and return it.

    Raises:
        CodexRayError: a check failed, or the cluster does not answer.
    """
    address = address_of(settings)
    if address is not None and (why := silent(address)):
        remedy = "look at the head with `ray status`, and give its address (RAY_ADDRESS, address=HOST:PORT)"
        gone = Finding("nodes", FAILED, f"nothing answers at {address} ({why})", remedy)
        found = [*machine_findings(settings), gone]
    elif address is not None:
        from codex_ray.doctor.cluster import cluster_findings

        found = cluster_findings(settings, address)
    else:
        found = [*machine_findings(settings), guarded("ports", ports)]
        found.append(guarded("gloo", lambda: meet_here(settings.transfer_bytes, settings.timeout_seconds)))
    print(as_json(found, address) if settings.json else as_lines(found))
    failed = [finding.name for finding in found if finding.state == FAILED]
    if failed:
        raise CodexRayError(
            f"{len(failed)} of {len(found)} checks failed ({', '.join(failed)}); each line has its remedy"
        )
    return found


def as_json(found: Sequence[Finding], address: str | None) -> str:
    """Return the findings as one JSON object."""
    return json.dumps(
        {
            "format_version": FORMAT_VERSION,
            "address": address,
            "failed": sum(finding.state == FAILED for finding in found),
            "findings": [dataclasses.asdict(finding) for finding in found],
        },
        indent=2,
        ensure_ascii=False,
    )


def as_lines(found: Sequence[Finding]) -> str:
    """Return the findings as lines: state, what was looked at, what there is, what to do."""
    marks = {"ok": "ok    ", "note": "note  ", "failed": "FAILED"}
    if sys.stdout.isatty():
        colours = {"ok": "32", "note": "33", "failed": "31"}
        marks = {state: f"\033[{colours[state]}m{mark}\033[0m" for state, mark in marks.items()}
    width = max(len(finding.name) for finding in found)
    return "\n".join(
        f"{marks[finding.state]}  {finding.name.ljust(width)}  {finding.found}"
        + (f"; {finding.remedy}" if finding.remedy else "")
        for finding in found
    )
