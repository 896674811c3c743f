"""`make audit` on advisories: what was answered is kept, and what was not is never called clean."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tools import audit


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock of two packages, no waivers, an empty cache."""
    (tmp_path / "lock").write_text("# a lock\nMarkup_Safe==3.0\nrequests==2.20.0\n")
    (tmp_path / "waived").write_text("# none\n")
    monkeypatch.setattr(audit, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(audit, "WAIVED", tmp_path / "waived")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def answering(place: Path, *answers: dict[str, object]) -> str:
    """A program in place of pip-audit that gives these answers."""
    program = place / "answering"
    text = json.dumps({"dependencies": answers, "fixes": []})
    program.write_text(f"#!/bin/sh\necho 'Found' >&2\ncat <<'EOF'\n{text}\nEOF\n")
    program.chmod(0o755)
    return str(program)


def silent(place: Path) -> str:
    program = place / "silent"
    program.write_text("#!/bin/sh\necho 'requests.exceptions.ConnectionError: no route' >&2\nexit 1\n")
    program.chmod(0o755)
    return str(program)


SOUND = {"name": "markup-safe", "version": "3.0", "vulns": []}
OLD = {"name": "requests", "version": "2.20.0", "vulns": [{"id": "PYSEC-2023-74"}]}


def test_answers_are_kept_and_count_without_a_network_with_their_age(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main([answering(place, SOUND, {**OLD, "vulns": []})]) == audit.CLEAN
    assert "2 of 2 locked packages were looked up; none has an advisory" in capsys.readouterr().out
    store = place / "cache" / "codex_ray" / "advisories.json"
    answers = json.loads(store.read_text())
    answers["requests==2.20.0"]["time"] = time.time() - 9 * 86400
    store.write_text(json.dumps(answers))
    assert audit.main([silent(place)]) == audit.CLEAN
    said = capsys.readouterr().out
    assert "2 of these 9 days ago (no source of advisories answers (requests.exceptions.Conn" in said
    (place / "lock").write_text("markup_safe==3.0\nrequests==2.21.0\n")  # which nobody has looked up
    assert audit.main([silent(place)]) == audit.UNKNOWN
    assert "1 of 2 locked packages were looked up" in capsys.readouterr().out


def test_a_finding_is_named_until_it_is_waived_with_a_reason(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main([answering(place, SOUND, OLD)]) == audit.FOUND
    assert "1 have advisories: requests==2.20.0: PYSEC-2023-74;" in capsys.readouterr().out
    (place / "waived").write_text("PYSEC-2023-74  its function is not called here\n")
    assert audit.main([answering(place, SOUND, OLD)]) == audit.CLEAN


def test_an_index_without_advisories_is_not_called_clean(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """pip-audit says "No known vulnerabilities found" of packages that it could not look up."""
    skipped = [{"name": one["name"], "skip_reason": "Dependency not found on PyPI"} for one in (SOUND, OLD)]
    assert audit.main([answering(place, *skipped)]) == audit.UNKNOWN
    assert "0 of 2 locked packages were looked up (the index has no advisories" in capsys.readouterr().out
    assert audit.main(["/nowhere/pip-audit"]) == audit.UNKNOWN
    assert "cannot be run (FileNotFoundError)" in capsys.readouterr().out


def test_the_projects_own_lock_and_waivers_are_read() -> None:
    assert len(audit.pins(audit.LOCK)) > 200
    assert all(reason.strip() for reason in audit.waived(audit.WAIVED).values())
