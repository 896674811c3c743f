"""Look for known advisories on the locked packages: ``python tools/audit.py PIP_AUDIT``, as ``make audit``.

pip-audit asks PyPI. What it was told is kept, by package and version, so that without a network the last
answers count, with their age. Exit status 0: every package was looked up and none has an advisory that is not
waived; 1: one has; 3: some were looked up neither now nor before. An index that has no advisories (a mirror)
makes pip-audit itself say that it found none; here such packages count as not looked up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "constraints.txt"
WAIVED = ROOT / "requirements" / "waived_advisories.txt"
LIMIT_SECONDS = 900.0
CLEAN, FOUND, UNKNOWN = 0, 1, 3
Answers = dict[str, dict[str, Any]]  # by NAME==VERSION: advisories, and the unix time of the answer


def main(words: Sequence[str]) -> int:
    """Ask, keep what was answered, and return the exit status."""
    program = words[0] if words else "pip-audit"
    store = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "codex_ray" / "advisories.json"
    known = kept(store)
    answers, trouble = ask(program, LOCK)
    known |= answers
    if answers:
        store.parent.mkdir(parents=True, exist_ok=True)
        store.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    sentence, status = told(pins(LOCK), known, waived(WAIVED), fresh=set(answers), trouble=trouble)
    print(f"audit: {sentence}")
    return status


def ask(program: str, lock: Path) -> tuple[Answers, str]:
    """Return what pip-audit was answered just now, and why not all was, if so."""
    command = [program, "--requirement", str(lock), "--no-deps", "--disable-pip", "--format", "json"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            env={**os.environ, "NO_COLOR": "1"},
        )
        found = json.loads(done.stdout)["dependencies"]
    except (OSError, subprocess.TimeoutExpired) as error:
        return {}, f"{program} cannot be run ({type(error).__name__})"
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return {}, f"no source of advisories answers ({last[:160]})"
    answers, skipped = {}, ""
    for one in found:
        if "skip_reason" in one:
            skipped = str(one["skip_reason"])
            continue
        names = sorted({str(advisory["id"]) for advisory in one["vulns"]})
        answers[f"{one['name'].lower().replace('_', '-')}=={one['version']}"] = {
            "advisories": names,
            "time": time.time(),
        }
    return answers, f"the index has no advisories ({skipped[:120]})" if skipped and not answers else skipped


def told(
    wanted: Sequence[str],
    known: Mapping[str, Mapping[str, Any]],
    allowed: Mapping[str, str],
    *,
    fresh: set[str],
    trouble: str,
) -> tuple[str, int]:
    """Return one sentence on what is known of the packages, and the exit status."""
    covered = [pin for pin in wanted if pin in known]
    bad = {pin: [one for one in known[pin]["advisories"] if one not in allowed] for pin in covered}
    bad = {pin: names for pin, names in bad.items() if names}
    old = [known[pin]["time"] for pin in covered if pin not in fresh]
    age = f", {len(old)} of these {_days(min(old))} ago" if old else ""
    seen = f"{len(covered)} of {len(wanted)} locked packages were looked up{age}"
    why = f" ({trouble})" if trouble and len(fresh) < len(wanted) else ""
    if bad:
        listed = "; ".join(f"{pin}: {', '.join(names)}" for pin, names in sorted(bad.items()))
        return (
            f"{seen}{why} and {len(bad)} have advisories: {listed}; raise or waive them",
            FOUND,
        )
    if len(covered) < len(wanted):
        return f"{seen}{why}; none of them has an advisory, run it again where PyPI answers", UNKNOWN
    return f"{seen}{why}; none has an advisory that is not waived", CLEAN


def pins(lock: Path) -> list[str]:
    """Return the lock's packages as NAME==VERSION, names in small letters."""
    lines = lock.read_text().splitlines()
    return [line.lower().replace("_", "-") for line in lines if line and not line.startswith("#")]


def waived(path: Path) -> dict[str, str]:
    """Return the advisories that are known to do no harm here, each with the reason."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    return dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))


def kept(store: Path) -> Answers:
    """Return earlier answers; a damaged file holds none."""
    try:
        found: Answers = json.loads(store.read_text())
    except (OSError, ValueError):
        return {}
    return found


def _days(then: float) -> str:
    days = (time.time() - then) / 86400
    return f"{days:.0f} days" if days >= 2 else f"{24 * days:.0f} hours"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
