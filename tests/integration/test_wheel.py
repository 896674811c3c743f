"""The wheel, and one built of the sdist, installed alone: configs come from inside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]


def run(*command: str, **settings: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **settings)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_what_is_released_works_in_an_empty_folder(kind: str, tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    source = ROOT
    if kind == "sdist":
        run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path), cwd=ROOT)
        (source,) = tmp_path.glob("codex_ray-*.tar.gz")
    run(*pip, "wheel", "-q", str(source), "--no-deps", "--no-build-isolation", "-w", str(tmp_path))
    (wheel,) = tmp_path.glob("codex_ray-*.whl")
    run(*pip, "install", "-q", "--no-deps", "--target", str(tmp_path / "site"), str(wheel))
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    where = run(
        sys.executable, "-c", "import codex_ray; print(codex_ray.__file__)", cwd=empty, env=environment
    )
    assert Path(where.strip()).is_relative_to(tmp_path / "site")
    words = ("-m", "codex_ray", "pretrain", "model=plain-small", "--dry-run")
    assert "kind: plain" in run(sys.executable, *words, cwd=empty, env=environment)
    assert (tmp_path / "site" / "bin" / "codex-ray").exists()
