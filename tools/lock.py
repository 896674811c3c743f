"""Write requirements/constraints.txt from what .venv holds; run by ``make lock`` with .venv's Python.

Only what pyproject.toml asks for, with its development tools, is kept: nothing that was installed by hand.
Beside it go the hashes of the files that pip takes on this very platform, for running and for developing; the
set-up holds pip to them (:func:`tools.bootstrap.hashes`). PyTorch has none: its builds differ by index.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename

from tools.bootstrap import hash_file, platform_name

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "constraints.txt"
BUILD_TOOLS = ("pip", "setuptools", "hatchling", "editables")
BY_INDEX = ("torch", "triton", "nvidia-", "cuda-")  # what differs between PyTorch's indices


def main() -> None:
    """Rewrite the lock, keeping its comment."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"], *BUILD_TOOLS]
    pins = [f"{name}=={version.split('+')[0]}" for name, version in installed(wanted).items()]
    comment = [line for line in LOCK.read_text().splitlines() if line.startswith("#")]
    LOCK.write_text("\n".join([*comment, *sorted(pins, key=str.lower)]) + "\n")
    print(f"{LOCK}: {len(pins)} versions; `make setup-dev` installs them")
    runtime = {name: version.split("+")[0] for name, version in installed(project["dependencies"]).items()}
    everything = dict(line.split("==") for line in sorted(pins, key=str.lower))
    with tempfile.TemporaryDirectory() as folder:
        lines = hashed(download(everything, Path(folder)))
    for dev, names in ((False, runtime), (True, everything)):
        wanted = [lines[name] for name in map(canonicalize_name, names) if not name.startswith(BY_INDEX)]
        hash_file(dev).write_text("\n".join([*header(lines.values()), *sorted(wanted)]) + "\n")
        print(f"{hash_file(dev)}: {len(wanted)} hashes")


def download(pins: Mapping[str, str], folder: Path) -> list[Path]:
    """Have pip fetch the files that it would install here, and return them."""
    wanted = [f"{name}=={version}" for name, version in pins.items() if not name.startswith(BY_INDEX)]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-d", str(folder), *wanted], check=True, timeout=3600)
    return sorted(folder.iterdir())


def hashed(files: Iterable[Path]) -> dict[str, str]:
    """Return a line with the hash for each file, by the package's name."""
    lines: dict[str, str] = {}
    for path in files:
        wheel = path.suffix == ".whl"
        name, version = (
            parse_wheel_filename(path.name)[:2] if wheel else parse_sdist_filename(_as_sdist(path.name))
        )
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines[name] = f"{name}=={version} --hash=sha256:{digest}  # {path.name}"
    return lines


def header(lines: Iterable[str]) -> list[str]:
    """Return the comment, with the oldest C library that all wheels run on."""
    least = max(min(map(int, re.findall(r"manylinux_2_(\d+)", line)), default=0) for line in lines)
    return [
        f"# Hashes of the files that pip takes on {platform_name()}, glibc 2.{least} or newer;"
        " by `make lock`.",
        "# PyTorch is not among them: its builds differ by index.",
    ]


def _as_sdist(name: str) -> str:
    """Return a source distribution's name in today's form, which old ones and .zip files are not in."""
    stem = name.removesuffix(".zip").removesuffix(".tar.gz")
    project, _, version = stem.rpartition("-")
    return f"{project.replace('-', '_')}-{version}.tar.gz"


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
