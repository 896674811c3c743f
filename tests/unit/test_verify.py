"""The driver of the long campaign, on small test files of its own."""

from __future__ import annotations

import json
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
        monkeypatch.setattr(module, "FOLDER", tmp_path)
        monkeypatch.setattr(module, "commit_name", lambda: "0123456789ab")
    monkeypatch.setattr(verify, "ROOT", tmp_path)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # its processes start sooner
    return tmp_path / "tests"


def recorded(campaign: Path) -> dict[str, dict[str, object]]:
    (path,) = campaign.parent.glob("verify.*.json")
    batches: dict[str, dict[str, object]] = json.loads(path.read_text())["batches"]
    return batches


def test_what_failed_is_run_again_and_what_passed_is_not(
    campaign: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (campaign / "test_failing.py").write_text(FAILING)
    assert verify.main() == 1
    batches = recorded(campaign)
    assert {file: batch["passed"] for file, batch in batches.items()} == {
        "tests/test_failing.py": False,
        "tests/test_passing.py": True,
    }
    counts = {"tests": 1, "failures": 0, "errors": 0, "skipped": 0}
    assert batches["tests/test_passing.py"]["counts"] == counts
    (campaign / "test_failing.py").write_text(FAILING.replace("not ", ""))
    capfd.readouterr()
    assert verify.main() == 0
    assert "tests/test_passing.py: passed before at this commit" in capfd.readouterr().out
    assert all(batch["passed"] for batch in recorded(campaign).values())


def test_only_results_of_this_very_commit_count(campaign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = {"passed": True, "counts": {"tests": 1}, "seconds": 1.0}
    verify.record({"tests/test_passing.py": batch}, 1)
    assert verify.passed_batches() == {"tests/test_passing.py": batch}
    for other in ("ba9876543210", "0123456789ab+"):
        monkeypatch.setattr(verify, "commit_name", lambda name=other: name)
        assert verify.passed_batches() == {}


def test_tests_that_cannot_be_collected_end_the_campaign(campaign: Path) -> None:
    (campaign / "test_broken.py").write_text("import no_such_module\n")
    with pytest.raises(SystemExit, match="cannot be collected"):
        verify.main()
