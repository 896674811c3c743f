"""The lines of the package that ``make test`` runs, in workers and subprocesses too; resumable in parts.

Each folder of unit tests and each file of integration tests is one batch. What a batch ran is kept in
``build/coverage`` with a fingerprint of its tests and of all that they may use; a batch whose tests passed is
not run again until one of these changes. When all have passed, the share of lines goes to
``benchmarks/results/coverage.MACHINE.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import coverage

from benchmarks.results import Figure, write_result
from codex_ray.files import read_json, write_json
from tools.verify import NO_TESTS_COLLECTED, fingerprint

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "build" / "coverage"
LEAST = 0.85
MARKERS = "not verify and not cluster"
BATCH_LIMIT_SECONDS = 3600.0
WORST = 15
CONFIG = """
[run]
parallel = true
data_file = {folder}/data
include =
    {root}/codex_ray/*
    {root}/jobs/*
    */working_dir_files/*/codex_ray/*
    */working_dir_files/*/jobs/*
patch = _exit
sigterm = true
plugins = tools.coverage_saver
disable_warnings = no-data-collected, module-not-imported, module-not-measured, trace-changed

[paths]
package =
    {root}/codex_ray
    */working_dir_files/*/codex_ray
scripts =
    {root}/jobs
    */working_dir_files/*/jobs
"""


class Lines(NamedTuple):
    """Lines that could be run, and those that were."""

    all: int
    run: int

    @property
    def share(self) -> float:
        """The share that was run."""
        return self.run / self.all if self.all else 1.0


def main(words: Sequence[str] | None = None) -> int:
    """Measure what has not been measured as it is; 0 if enough lines are run by all tests."""
    parser = argparse.ArgumentParser(description="Lines that the tests of `make test` run, in all processes.")
    parser.add_argument(
        "batches", nargs="*", help="measure these folders and files of tests now, the others later"
    )
    parser.add_argument("--minutes", type=float, help="begin no batch after so many minutes")
    wanted = parser.parse_args(words)
    batches = all_batches()
    if unknown := sorted(set(wanted.batches) - set(batches)):
        parser.error(f"{unknown[0]} is no batch; these are: {', '.join(batches)}")
    deadline = None if wanted.minutes is None else time.monotonic() + 60.0 * wanted.minutes
    failed: list[str] = []
    for number, batch in enumerate(batches, 1):
        if is_measured(batch) or batch not in (wanted.batches or batches):
            continue
        if deadline is not None and time.monotonic() > deadline:
            break
        print(f"[{number}/{len(batches)}] {batch}", flush=True)
        if not measure(batch):
            failed.append(batch)
    measured = [batch for batch in batches if is_measured(batch)]
    files = count([data_of(batch) for batch in measured if data_of(batch).exists()])
    share = report(files)
    print(
        f"{len(measured)} of {len(batches)} batches measured" + "".join(f"\n  FAILED {one}" for one in failed)
    )
    if len(measured) < len(batches):
        return 1
    record(files)
    if share < LEAST:
        print(
            f"{share:.1%} of lines is less than the {LEAST:.0%} that are asked for; test what is listed above"
        )
        return 1
    return 0


def all_batches() -> list[str]:
    """Return the folders of unit tests and the files of unit and integration tests that are no folder's."""
    unit, integration = ROOT / "tests" / "unit", ROOT / "tests" / "integration"
    found = [path for path in unit.iterdir() if path.is_dir() and any(path.rglob("test_*.py"))]
    found += [*unit.glob("test_*.py"), *integration.glob("test_*.py")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def data_of(batch: str) -> Path:
    """Return where the lines that a batch ran are kept."""
    return KEPT / (batch.removeprefix("tests/").removesuffix(".py").replace("/", ".") + ".data")


def is_measured(batch: str) -> bool:
    """Tell whether a batch passed as it is now."""
    said = data_of(batch).with_suffix(".json")
    return said.exists() and bool(read_json(said, "record of coverage")["fingerprint"] == fingerprint(batch))


def measure(batch: str) -> bool:
    """Run a batch's tests and keep what they ran; returns whether they passed."""
    started, found = time.monotonic(), fingerprint(batch)
    for kept in (data_of(batch), data_of(batch).with_suffix(".json")):
        kept.unlink(missing_ok=True)
    KEPT.mkdir(parents=True, exist_ok=True)
    # What Ray has not ended yet may write on while the folder goes.
    with tempfile.TemporaryDirectory(prefix="coverage_", ignore_cleanup_errors=True) as folder:
        config = Path(folder) / "config.ini"
        config.write_text(CONFIG.format(folder=folder, root=ROOT))
        passed = run_tests(batch, config)
        lines = coverage.Coverage(config_file=str(config), data_file=str(data_of(batch)))
        if data := [str(path) for path in Path(folder).glob("data.*")]:
            lines.combine(data, strict=True)
            lines.save()
    if passed:
        seconds = round(time.monotonic() - started, 1)
        write_json(data_of(batch).with_suffix(".json"), {"fingerprint": found, "seconds": seconds})
    return passed


def run_tests(batch: str, config: Path) -> bool:
    """Have pytest run a batch as ``make test`` does, measured by this configuration."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        MARKERS,
        "-p",
        "timeout",
        "--timeout",
        "600",
        batch,
    ]
    if (ROOT / batch).is_dir():
        command += ["--numprocesses", "logical", "--maxprocesses", "8", "--dist", "loadfile"]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = {**os.environ, "PYTHONPATH": path, "COVERAGE_PROCESS_START": str(config)}
    try:
        done = subprocess.run(command, cwd=ROOT, env=variables, timeout=BATCH_LIMIT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode in (0, NO_TESTS_COLLECTED)


def count(data: Sequence[Path]) -> dict[str, Lines]:
    """Return the lines of every file of the package and of ``jobs``, by its path."""
    if not data:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        together = coverage.Coverage(data_file=f"{folder}/data", config_file=False)
        together.combine([str(path) for path in data], keep=True)
        sources = [path for name in ("codex_ray", "jobs") for path in sorted((ROOT / name).rglob("*.py"))]
        together.get_data().touch_files([str(path) for path in sources])  # also what no test has imported
        together.json_report(outfile=f"{folder}/report.json")
        found: dict[str, Any] = json.loads(Path(f"{folder}/report.json").read_text())["files"]
    return {
        Path(path).resolve().relative_to(ROOT).as_posix(): Lines(
            one["summary"]["num_statements"], one["summary"]["covered_lines"]
        )
        for path, one in found.items()
    }


def by_package(files: dict[str, Lines]) -> dict[str, Lines]:
    """Add the files' lines up by folder, two levels deep."""
    sums: defaultdict[str, Lines] = defaultdict(lambda: Lines(0, 0))
    for path, lines in files.items():
        name = "/".join(path.split("/")[:-1][:2])
        sums[name] = Lines(sums[name].all + lines.all, sums[name].run + lines.run)
    return dict(sorted(sums.items()))


def total(files: dict[str, Lines]) -> Lines:
    """Add all lines up."""
    return Lines(sum(one.all for one in files.values()), sum(one.run for one in files.values()))


def report(files: dict[str, Lines]) -> float:
    """Print the share by package and the files that lack most; returns the share of all lines."""
    for name, lines in [*by_package(files).items(), ("all", total(files))]:
        print(f"{lines.share:7.1%}  {lines.run:6} of {lines.all:6}  {name}")
    print("most lines that no test runs:")
    for path, lines in sorted(files.items(), key=lambda item: item[1].run - item[1].all)[:WORST]:
        print(f"{lines.share:7.1%}  {lines.all - lines.run:6} lines  {path}")
    return total(files).share


def record(files: dict[str, Lines]) -> None:
    """Write the shares as a benchmark's result."""
    lines = total(files)
    figures = {
        "coverage_lines": Figure(round(lines.share, 4), "share", "higher", aim=LEAST),
        "coverage_lines_in_all": Figure(lines.all, "lines", "higher"),
    }
    packages = {name: round(one.share, 4) for name, one in by_package(files).items()}
    write_result("coverage", figures, {"packages": packages})


if __name__ == "__main__":
    sys.exit(main())
