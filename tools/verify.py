"""The long campaign: every test marked ``verify`` or ``cluster``, file by file, resumable.

Each file is one batch with its own deadline. What it gave is written at once to
``benchmarks/results/verify.MACHINE.json``, with a fingerprint of the file and of all that it may use; what
passed is not run again until one of these changes.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from fnmatch import fnmatch
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
NOT_USED = ("*.md", "benchmarks/results/*")


def main(words: Sequence[str] | None = None) -> int:
    """Run what has not passed as it is; 0 if everything has then passed."""
    parser = argparse.ArgumentParser(description="The long campaign; what passed as it is isn't run again.")
    parser.add_argument("files", nargs="*", help="run these of its test files now, the others later")
    wanted = parser.parse_args(words).files
    files = test_files()
    chosen = wanted or files
    if unknown := sorted(set(chosen) - set(files)):
        parser.error(f"{unknown[0]} is no test file of the campaign; these are: {', '.join(files)}")
    if not files:
        print(f"no test is marked {MARKERS!r}")
        return 0
    batches = passed_batches(files)
    for number, file in enumerate(files, 1):
        if file in batches:
            print(f"[{number}/{len(files)}] {file}: passed before, as it is")
            continue
        if file not in chosen:
            continue
        print(f"[{number}/{len(files)}] {file}", flush=True)
        batches[file] = run_batch(file)
        record(batches, len(files))
    failed = [file for file, batch in batches.items() if not batch["passed"]]
    print(
        f"{len(batches) - len(failed)} of {len(files)} files passed"
        + "".join(f"\n  FAILED {f}" for f in failed)
    )
    return 0 if len(batches) - len(failed) == len(files) else 1


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


def passed_batches(files: list[str]) -> dict[str, dict[str, Any]]:
    """Return the batches of these files that passed as they are now."""
    path = FOLDER / f"verify.{machine_name()}.json"
    before = read_json(path, "benchmark result")["batches"] if path.exists() else {}
    return {
        file: before[file]
        for file in files
        if file in before and before[file]["passed"] and before[file]["fingerprint"] == fingerprint(file)
    }


def fingerprint(tests: str) -> str:
    """Return a hash of a file or folder of tests and of all files but other tests, words and results."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    found = hashlib.sha256()
    for name in sorted(set(names.splitlines())):
        path = ROOT / name
        other_test = path.name.startswith("test_") and not Path(name).is_relative_to(tests)
        unused = any(fnmatch(name, pattern) for pattern in NOT_USED)
        if path.is_file() and not other_test and not unused:
            found.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16]


def run_batch(file: str) -> dict[str, Any]:
    """Run one test file and return what it gave; one that outlives its deadline has failed."""
    started, found = time.monotonic(), fingerprint(file)
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
    return {
        "passed": status == 0,
        "counts": counts,
        "seconds": round(time.monotonic() - started, 1),
        "commit": commit_name(),
        "fingerprint": found,
    }


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
