"""The long campaign: every test marked ``verify`` or ``cluster``, file by file, resumable.

Each file is one batch with its own deadline. What it gave is written at once to
``benchmarks/results/verify.MACHINE.json``; run again at the same commit, what passed is not run again.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.results import FOLDER, Figure, commit_name, machine_name, write_result
from codex_ray.files import read_json

ROOT = Path(__file__).resolve().parent.parent
MARKERS = "verify or cluster"
BATCH_LIMIT_SECONDS = 4 * 3600.0
NO_TESTS_COLLECTED = 5
COUNTS = ("tests", "failures", "errors", "skipped")


def main() -> int:
    """Run what has not passed at this commit; 0 if everything has then passed."""
    files = test_files()
    if not files:
        print(f"no test is marked {MARKERS!r}")
        return 0
    batches = passed_batches()
    for number, file in enumerate(files, 1):
        if file in batches:
            print(f"[{number}/{len(files)}] {file}: passed before at this commit")
            continue
        print(f"[{number}/{len(files)}] {file}", flush=True)
        batches[file] = run_batch(file)
        record(batches, len(files))
    failed = [file for file, batch in batches.items() if not batch["passed"]]
    print(
        f"{len(batches) - len(failed)} of {len(files)} files passed"
        + "".join(f"\n  FAILED {f}" for f in failed)
    )
    return 1 if failed else 0


def test_files() -> list[str]:
    """Return the test files that hold tests of the campaign, in order.

    Raises:
        SystemExit: the tests cannot be collected; pytest's own words are printed.
    """
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", MARKERS, "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    if done.returncode not in (0, NO_TESTS_COLLECTED):
        raise SystemExit(f"{done.stdout}{done.stderr}\nthe tests cannot be collected")
    return sorted({line.split("::")[0] for line in done.stdout.splitlines() if "::" in line})


def passed_batches() -> dict[str, dict[str, Any]]:
    """Return the batches that passed at this very commit; none where files differ from it."""
    path, commit = FOLDER / f"verify.{machine_name()}.json", commit_name()
    if not path.exists() or commit.endswith("+"):
        return {}
    before = read_json(path, "benchmark result")
    batches: dict[str, dict[str, Any]] = before["batches"] if before["commit"] == commit else {}
    return {file: batch for file, batch in batches.items() if batch["passed"]}


def run_batch(file: str) -> dict[str, Any]:
    """Run one test file and return what it gave; one that outlives its deadline has failed."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-m", MARKERS, f"--junit-xml={report}", file], cwd=ROOT
        )
        try:
            status: int | None = process.wait(timeout=BATCH_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
            process.send_signal(signal.SIGINT)  # fixtures get to stop what they started
            try:
                process.wait(timeout=120)
            except subprocess.TimeoutExpired:
                process.kill()
        suite = ElementTree.parse(report).find("testsuite") if report.exists() else None
    counts = {} if suite is None else {name: int(suite.get(name, 0)) for name in COUNTS}
    return {"passed": status == 0, "counts": counts, "seconds": round(time.monotonic() - started, 1)}


def record(batches: dict[str, dict[str, Any]], files: int) -> None:
    """Write the campaign's state as a benchmark result."""
    good = [batch for batch in batches.values() if batch["passed"]]
    figures = {
        "verify_files_passed": Figure(len(good), "files", "higher", aim=files),
        "verify_tests_passed": Figure(sum(batch["counts"]["tests"] for batch in good), "tests", "higher"),
    }
    write_result("verify", figures, {"batches": batches})


if __name__ == "__main__":
    sys.exit(main())
