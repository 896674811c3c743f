"""Preparing text as this machine holds it: Python sources, and the documentation of Debian's packages.

    python -m benchmarks.prepare_real [--documentation FOLDER ...]

``sources`` is the standard library and all packages installed beside it, with the cleaning for code;
``documentation`` is text, HTML and the licence and change files of the folders given (``/usr/share/doc``,
where none is given and it is there), many of them gzip. Near-duplicates are looked for in both. What is
there differs from machine to machine: the figures say how much it was. The benchmark fails where a
source's items are not all kept, dropped or quarantined.
"""

from __future__ import annotations

import argparse
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.results import Figure, write_result
from benchmarks.scale.memory import watched
from codex_ray.cluster.session import open_session
from codex_ray.config.compose import compose
from codex_ray.config.corpus import Prepare
from codex_ray.corpus.account import Account
from codex_ray.corpus.prepare import prepare
from codex_ray.errors import CodexRayError

DOCUMENTATION = Path("/usr/share/doc")  # of Debian and its relatives
CODE = ["source=code", "clean=code"]
TEXT = [
    "suffixes=[.txt,.md,.rst,.html,.htm,copyright,changelog,changelog.Debian,README,NEWS,TODO,FAQ]",
    "clean.encoding=detect",
]


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description="Prepare this machine's sources and documentation.")
    parser.add_argument("--documentation", type=Path, nargs="*", default=[DOCUMENTATION])
    arguments = parser.parse_args()
    paths = sysconfig.get_paths()
    corpora = {
        "sources": (CODE, {"stdlib": Path(paths["stdlib"]), "packages": Path(paths["purelib"])}),
        "documentation": (
            TEXT,
            {f"folder{number}": path for number, path in enumerate(arguments.documentation) if path.is_dir()},
        ),
    }
    figures: dict[str, Figure] = {}
    facts: dict[str, Any] = {}
    for name, (settings, folders) in corpora.items():
        if folders:
            facts[name] = _measure(settings, folders)
            figures |= _figures(name, facts[name])
    print(write_result("prepare_real", figures, extra=facts))


def _measure(wanted: list[str], folders: dict[str, Path]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        given = [f"sources.{name}.path='{path}'" for name, path in folders.items()]
        settings: Prepare = compose(
            "prepare",
            [*wanted, *given, f"output={folder}/corpus", "duplicates.near=true", "track.progress=off"],
        )
        began = time.perf_counter()
        with watched() as peaks, open_session(settings.cluster):
            made = prepare(settings)
            seconds = time.perf_counter() - began
        for name, plain in made.manifest.sources.items():
            one = Account.from_plain(plain)
            if one.read != one.kept + one.dropped.total() + one.quarantined.total():
                raise CodexRayError(f"source {name} read {one.read} items and does not account for all")
        account = made.manifest.account()
    return {
        "seconds": seconds,
        "stage_seconds": made.seconds,
        "peak_task_bytes": peaks.task,
        "read": account.read,
        "kept": account.kept,
        "kept_bytes": account.bytes,
        "dropped": dict(account.dropped),
        "quarantined": dict(account.quarantined),
        "changed": dict(account.changed),
    }


def _figures(name: str, found: dict[str, Any]) -> dict[str, Figure]:
    gone = sum(found["dropped"].values()) + sum(found["quarantined"].values())
    return {
        f"{name}_items": Figure(found["read"], "items", "higher"),
        f"{name}_kept": Figure(found["kept"], "documents", "higher"),
        f"{name}_kept_megabytes": Figure(found["kept_bytes"] / 1e6, "MB", "higher"),
        f"{name}_unaccounted_items": Figure(found["read"] - found["kept"] - gone, "items", "lower", aim=0),
        f"{name}_seconds": Figure(found["seconds"], "s", "lower"),
        f"{name}_peak_task_megabytes": Figure(found["peak_task_bytes"] / 1e6, "MB", "lower"),
    }


if __name__ == "__main__":
    main()
