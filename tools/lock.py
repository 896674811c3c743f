"""Write requirements/constraints.txt from what .venv holds; run by ``make lock`` with .venv's Python.

Only what pyproject.toml asks for, with its development tools, is kept: nothing that was installed by hand.
"""

from __future__ import annotations

import importlib.metadata
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "constraints.txt"
BUILD_TOOLS = ("pip", "setuptools", "hatchling", "editables")


def main() -> None:
    """Rewrite the lock, keeping its comment."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"], *BUILD_TOOLS]
    pins = [f"{name}=={version.split('+')[0]}" for name, version in installed(wanted).items()]
    comment = [line for line in LOCK.read_text().splitlines() if line.startswith("#")]
    LOCK.write_text("\n".join([*comment, *sorted(pins, key=str.lower)]) + "\n")
    print(f"{LOCK}: {len(pins)} versions; `make setup-dev` installs them")


def installed(requirements: Iterable[str]) -> dict[str, str]:
    """Return the installed version of every requirement and of everything these need, by name.

    Raises:
        PackageNotFoundError: a requirement is not installed.
    """
    found: dict[str, str] = {}
    seen: set[str] = set()
    pending = [Requirement(text) for text in requirements]
    while pending:
        requirement = pending.pop()
        key = canonicalize_name(requirement.name) + str(sorted(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        distribution = importlib.metadata.distribution(requirement.name)
        found[distribution.name] = distribution.version
        for text in distribution.requires or []:
            needed = Requirement(text)
            extras = ("", *requirement.extras)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                pending.append(needed)
    return found


if __name__ == "__main__":
    main()
