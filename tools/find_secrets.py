"""Look for secrets: ``python tools/find_secrets.py [FILE...]``, in all of the project where none is named.

Those known to be none are in ``.secrets.baseline``, by file, kind and hash: test data, and settings whose
names sound secret. What is no secret in one file is none in another. A new one fails; ``--accept`` makes
the baseline anew, after a person has looked at it.
Nothing is asked of a network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BASELINE = ROOT / ".secrets.baseline"
# Hashes and versions by nature, and this list itself.
LEFT_OUT = ("benchmarks/results/", "requirements/", "tests/golden/", BASELINE.name)
# Tests hold passwords and hashes of their own; in them only what is shaped like a service's token counts.
GUESSES = (
    "Secret Keyword",
    "Hex High Entropy String",
    "Base64 High Entropy String",
    "Basic Auth Credentials",
)
BINARY = (".png", ".parquet", ".model", ".safetensors")


def main() -> int:
    """Return 1 where a secret is found that the baseline does not hold."""
    named = sys.argv[1:]
    accept = named == ["--accept"]
    files = [name for name in tracked() if accept or not named or name in named]
    found = {(file, kind, digest): line for file, kind, digest, line in scan(files)}
    if accept:
        known = sorted(found)
        BASELINE.write_text(json.dumps([list(one) for one in known], indent=1) + "\n")
        print(f"{BASELINE.name}: {len(known)} places that are no secrets")
        return 0
    harmless = {(kind, digest) for _, kind, digest in json.loads(BASELINE.read_text())}
    new = sorted(one for one in found if one[1:] not in harmless)
    for file, kind, digest in new:
        print(f"{file}:{found[file, kind, digest]}: {kind}")
    if new:
        print("take them out, and change what is in use; if they are none: tools/find_secrets.py --accept")
    return 1 if new else 0


def tracked() -> list[str]:
    """Return the project's text files, committed or not."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return [
        name
        for name in done.stdout.splitlines()
        if not name.startswith(LEFT_OUT) and not name.endswith(BINARY) and (ROOT / name).is_file()
    ]


def scan(files: list[str]) -> list[tuple[str, str, str, int]]:
    """Return what is found: file, kind, hash and line."""
    workers = min(8, len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(workers) as processes:
        return [one for found in processes.map(scan_file, files, chunksize=16) for one in found]


def scan_file(name: str) -> list[tuple[str, str, str, int]]:
    """Return what is found in one file."""
    from detect_secrets.core.secrets_collection import SecretsCollection
    from detect_secrets.settings import default_settings, get_settings

    with default_settings():
        get_settings().disable_filters(
            "detect_secrets.filters.common.is_ignored_due_to_verification_policies"
        )
        secrets = SecretsCollection(root=str(ROOT))
        secrets.scan_file(name)
        return [
            (name, secret.type, secret.secret_hash, secret.line_number)
            for _, secret in secrets
            if not (name.startswith("tests/") and secret.type in GUESSES)
        ]


if __name__ == "__main__":
    sys.exit(main())
