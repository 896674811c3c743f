"""Secrets in the project's files: a new one is found, known false ones are not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_new_secret_is_found_and_known_ones_are_not(tmp_path: Path) -> None:
    for command in (["init", "-q"], ["config", "user.email", "a@b"], ["config", "user.name", "a"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, timeout=30)
    script = tmp_path / "tools" / "find_secrets.py"
    script.parent.mkdir()
    script.write_text((ROOT / "tools" / "find_secrets.py").read_text())
    (tmp_path / "known.py").write_text('password = "correct horse"\n')

    def run(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, str(script), *words], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.stderr == ""
        return done.returncode, done.stdout

    assert run("--accept")[0] == 0
    assert run() == (0, "")
    key = "AKIA" + "IOSFODNN7" + "QWERTYU"
    (tmp_path / "new.py").write_text(f'\nkey = "{key}"\n')
    status, said = run()
    assert (status, "new.py:2: AWS Access Key" in said, key in said) == (1, True, False)
    assert run("known.py") == (0, "")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "one.py").write_text(f'password = "battery staple"\nkey = "{key}"\n')
    assert [line.split(": ")[1] for line in run("tests/one.py")[1].splitlines()[:-1]] == ["AWS Access Key"]
    assert run("new.py")[0] == 1
