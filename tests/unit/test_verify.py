"""The driver of the long campaign, on small test files of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import results
from tools import verify

PASSING = """
import pytest

@pytest.mark.verify
def test_holds():
    assert True

def test_that_is_no_part_of_the_campaign():
    assert False
"""
FAILING = "import pytest\n\n@pytest.mark.cluster\ndef test_breaks():\n    assert not 'here'\n"
MARKERS = "[pytest]\nmarkers =\n    verify: long\n    cluster: several nodes\n"


@pytest.fixture
def campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the campaign be that of a small checkout; returns its folder of tests."""
    (tmp_path / "pytest.ini").write_text(MARKERS)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_passing.py").write_text(PASSING)
    for module in (verify, results):
        monkeypatch.setattr(module, "FOLDER", tmp_path / "benchmarks" / "results")
        monkeypatch.setattr(module, "commit_name", lambda: "0123456789ab")
    monkeypatch.setattr(verify, "ROOT", tmp_path)
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True, timeout=60)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # its processes start sooner
    return tmp_path / "tests"


def recorded(campaign: Path) -> dict[str, dict[str, object]]:
    (path,) = campaign.parent.glob("benchmarks/results/verify.*.json")
    batches: dict[str, dict[str, object]] = json.loads(path.read_text())["batches"]
    return batches


def test_what_failed_is_run_again_and_what_passed_is_not(
    campaign: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (campaign / "test_failing.py").write_text(FAILING)
    assert verify.main(["tests/test_passing.py"]) == 1
    assert recorded(campaign).keys() == {"tests/test_passing.py"}
    assert verify.main([]) == 1
    batches = recorded(campaign)
    assert {file: batch["passed"] for file, batch in batches.items()} == {
        "tests/test_failing.py": False,
        "tests/test_passing.py": True,
    }
    counts = {"tests": 1, "failures": 0, "errors": 0, "skipped": 0}
    assert batches["tests/test_passing.py"]["counts"] == counts
    (campaign / "test_failing.py").write_text(FAILING.replace("not ", ""))
    capfd.readouterr()
    assert verify.main([]) == 0
    assert "tests/test_passing.py: passed before, as it is" in capfd.readouterr().out
    assert all(batch["passed"] for batch in recorded(campaign).values())


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ("package.py", False),
        ("tests/conftest.py", False),
        ("tests/test_passing.py", False),
        ("tests/test_other.py", True),
        ("README.md", True),
    ],
)
def test_what_passed_counts_until_something_it_may_use_changes(
    campaign: Path, changed: str, counts: bool
) -> None:
    file = "tests/test_passing.py"
    batch = {"passed": True, "counts": {"tests": 1}, "seconds": 1.0, "fingerprint": verify.fingerprint(file)}
    verify.record({file: batch}, 1)
    assert verify.passed_batches([file, "tests/test_new.py"]) == {file: batch}
    (campaign.parent / changed).write_text("changed = True\n")
    assert verify.passed_batches([file]) == ({file: batch} if counts else {})


def test_a_file_that_is_not_of_the_campaign_is_refused(
    campaign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        verify.main(["tests/test_missing.py"])
    assert "tests/test_missing.py is no test file of the campaign" in capsys.readouterr().err


def test_tests_that_cannot_be_collected_end_the_campaign(campaign: Path) -> None:
    (campaign / "test_broken.py").write_text("import no_such_module\n")
    with pytest.raises(SystemExit, match="cannot be collected"):
        verify.main([])
