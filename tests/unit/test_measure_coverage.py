"""What tests run of a package, measured on a small checkout of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results
from tools import measure_coverage, verify
from tools.measure_coverage import Lines

PACKAGE = """import os
import time


def in_a_killed_process():
    print(os.getpid(), flush=True)
    time.sleep(60)


def in_the_test():
    return 1


def in_no_test():
    return 2
"""
TESTS = """import os
import pathlib
import subprocess
import sys
import time

from codex_ray import part


def test_here():
    assert part.in_the_test() == 1


def test_a_process_that_is_killed():
    code = "from codex_ray import part; part.in_a_killed_process()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = process.stdout.readline().strip()
    folder = pathlib.Path(os.environ["COVERAGE_PROCESS_START"]).parent
    deadline = time.monotonic() + 60
    while not list(folder.glob(f"data.*pid{pid}.*")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)
    process.kill()
    process.wait()
"""
FAILING = "def test_breaks():\n    assert not 'here'\n"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Measure a small checkout instead of this one; returns it."""
    for folder in ("codex_ray", "jobs", "tests/unit", "tests/integration"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nmarkers =\n    verify: long\n    cluster: several nodes\n"
    )
    (tmp_path / ".gitignore").write_text("__pycache__/\n.pytest_cache/\nbuild/\nbenchmarks/\n")
    (tmp_path / "codex_ray" / "__init__.py").write_text("")
    (tmp_path / "codex_ray" / "part.py").write_text(PACKAGE)
    (tmp_path / "codex_ray" / "unused.py").write_text("one = 1\ntwo = 2\n")
    (tmp_path / "tests" / "unit" / "test_part.py").write_text(TESTS)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # its processes start sooner
    monkeypatch.setenv("PYTHONPATH", str(Path(measure_coverage.__file__).parents[1]))  # where its plug-in is
    monkeypatch.setattr(results, "FOLDER", tmp_path / "benchmarks" / "results")
    monkeypatch.setattr(results, "commit_name", lambda: "0123456789ab")
    monkeypatch.setattr(verify, "ROOT", tmp_path)
    monkeypatch.setattr(measure_coverage, "ROOT", tmp_path)
    monkeypatch.setattr(measure_coverage, "KEPT", tmp_path / "build" / "coverage")
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True, timeout=60)
    return tmp_path


def recorded(checkout: Path) -> dict[str, Any]:
    (path,) = checkout.glob("benchmarks/results/coverage.*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_lines_of_killed_processes_count_and_too_few_lines_are_refused(
    checkout: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert measure_coverage.main([]) == 1
    said = capfd.readouterr().out
    assert "72.7% of lines is less than the 85%" in said
    assert "2 lines  codex_ray/unused.py" in said and "1 lines  codex_ray/part.py" in said
    assert recorded(checkout)["figures"]["coverage_lines"]["value"] == 0.7273
    monkeypatch.setattr(measure_coverage, "LEAST", 0.7)
    assert measure_coverage.main([]) == 0
    assert "passed" not in capfd.readouterr().out  # pytest was not needed again


def test_nothing_is_recorded_until_all_tests_pass(checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (checkout / "tests" / "unit" / "test_part.py").write_text(
        "import codex_ray.part\n\ndef test_it(): pass\n"
    )
    failing = checkout / "tests" / "integration" / "test_more.py"
    failing.write_text(FAILING)
    assert measure_coverage.main(["tests/unit/test_part.py"]) == 1
    assert "1 of 2 batches measured" in capfd.readouterr().out
    assert measure_coverage.main(["--minutes", "0"]) == 1
    assert measure_coverage.main([]) == 1
    assert "FAILED tests/integration/test_more.py" in capfd.readouterr().out
    assert not list(checkout.glob("benchmarks/results/*"))
    with pytest.raises(SystemExit):
        measure_coverage.main(["tests/unit/test_missing.py"])
    assert "tests/unit/test_missing.py is no batch" in capfd.readouterr().err


def test_a_folder_is_measured_again_when_one_of_its_tests_changes(checkout: Path) -> None:
    inside, beside = (
        checkout / "tests" / "unit" / "part" / "test_it.py",
        checkout / "tests" / "unit" / "test_part.py",
    )
    inside.parent.mkdir()
    inside.write_text("")
    assert measure_coverage.all_batches() == ["tests/unit/part", "tests/unit/test_part.py"]
    before = verify.fingerprint("tests/unit/part")
    beside.write_text("changed = True\n")
    assert verify.fingerprint("tests/unit/part") == before
    inside.write_text("changed = True\n")
    assert verify.fingerprint("tests/unit/part") != before


def test_lines_are_added_up_by_package() -> None:
    files = {
        "jobs/a.py": Lines(4, 4),
        "codex_ray/train/b.py": Lines(10, 5),
        "codex_ray/train/x/c.py": Lines(10, 0),
    }
    assert measure_coverage.by_package(files) == {"codex_ray/train": Lines(20, 5), "jobs": Lines(4, 4)}
    assert measure_coverage.total(files).share == 9 / 24
