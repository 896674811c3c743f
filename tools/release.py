"""Make what a release is: ``make release``, or ``make release dry=1`` from a tree that is not clean.

Checks that the tree is clean, that the version has its entry in CHANGELOG.md and no tag yet; builds wheel and
sdist; writes the bill of materials (CycloneDX, of the lock, with licences) and the hashes of all into dist/;
prints the tags of git and of the images. Publishing is .github/workflows/release.yml's.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
LOCK = ROOT / "requirements" / "constraints.txt"
IMAGES = {"cpu": "Dockerfile", "cuda": "Dockerfile.cuda"}


class ReleaseError(Exception):
    """What stands in the way of a release, in one sentence with the remedy."""


def main() -> int:
    """Build and return the exit status."""
    dry = "--dry-run" in sys.argv[1:]
    try:
        version = project_version()
        check(version, dry=dry)
        files = build(DIST)
        bill = DIST / f"codex_ray-{version}.cdx.json"
        bill.write_text(json.dumps(bill_of_materials(version), indent=1) + "\n")
        sums = "".join(f"{sha256(path)}  {path.name}\n" for path in [*files, bill])
        (DIST / "SHA256SUMS").write_text(sums)
    except (ReleaseError, OSError, subprocess.SubprocessError) as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    print(sums, end="")
    for kind, name in IMAGES.items():
        print(
            f"image: docker build -f cluster/docker/{name} -t ghcr.io/codex-ray/codex-ray:{version}-{kind} ."
        )
    print(
        f"tag: git tag -s v{version} && git push origin v{version}" + (" (not now: a dry run)" if dry else "")
    )
    return 0


def project_version() -> str:
    """Return the version that the package has."""
    found = re.search(
        r'^__version__ = "(.+)"$', (ROOT / "codex_ray" / "__init__.py").read_text(), re.MULTILINE
    )
    assert found
    return found[1]


def check(version: str, *, dry: bool) -> None:
    """Refuse a release that is not ready.

    Raises:
        ReleaseError: files differ from the commit, the changelog has no entry, or the tag is there.
    """
    if f"\n## {version} " not in (ROOT / "CHANGELOG.md").read_text():
        raise ReleaseError(f"CHANGELOG.md has no entry `## {version} (date)`; write what is new in it")
    if dry:
        return
    if _git("status", "--porcelain"):
        raise ReleaseError("files differ from the commit; commit them, or look with make release dry=1")
    if _git("tag", "--list", f"v{version}"):
        raise ReleaseError(f"v{version} is released; raise __version__ in codex_ray/__init__.py")


def build(folder: Path) -> list[Path]:
    """Build wheel and sdist, the same bytes from the same commit, and return their files."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("codex_ray-*"):
        old.unlink()
    environment = {**os.environ, "SOURCE_DATE_EPOCH": _git("log", "-1", "--format=%ct") or "0"}
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=600)
    return sorted(folder.glob("codex_ray-*"))


def bill_of_materials(version: str) -> dict[str, Any]:
    """Return the locked packages and their licences in CycloneDX 1.6."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "name": "codex-ray",
                "version": version,
                "purl": f"pkg:pypi/codex-ray@{version}",
                "licenses": [{"expression": "Apache-2.0"}],
            }
        },
        "components": [
            {
                "type": "library",
                "name": name,
                "version": pinned,
                "purl": f"pkg:pypi/{name.lower()}@{pinned}",
                "licenses": [{"license": {"name": licence_of(name)}}],
            }
            for name, pinned in locked()
        ],
    }


def locked() -> Iterator[tuple[str, str]]:
    """Iterate over the lock's packages and versions."""
    for line in LOCK.read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            yield name, version


def licence_of(name: str) -> str:
    """Return a package's licence in its own words, in one line; ``unknown`` where it says none."""
    try:
        told: Any = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed here"
    classified = [
        text.split(" :: ")[-1] for text in told.get_all("Classifier") or [] if text.startswith("License")
    ]
    named = told.get("License-Expression") or (told.get("License") or "").strip().split("\n")[0]
    return named if named and len(named) < 60 else ", ".join(classified) or named[:60] or "unknown"


def sha256(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
