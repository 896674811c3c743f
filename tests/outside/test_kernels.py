"""The Triton kernels without a GPU: Triton's interpreter runs them on numbers of the CPU."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TRITON = "triton==3.9.0"

pytestmark = [pytest.mark.verify, pytest.mark.timeout(3600)]


def triton_folder() -> str:
    """Return where Triton is; the CPU build of torch does not bring it, so it is installed aside."""
    folder = Path(sys.prefix) / "outside" / TRITON
    if importlib.util.find_spec("triton") is None and not folder.is_dir():
        staging = folder.with_suffix(".partial")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(staging)]
        subprocess.run([*command, TRITON], check=True, timeout=900)
        staging.rename(folder)
    return str(folder)


@pytest.mark.skipif(platform.system() != "Linux", reason="Triton has wheels for Linux alone")
def test_kernels_in_tritons_interpreter(tmp_path: Path) -> None:
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), triton_folder()]),
    }
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        str(tmp_path / "pytest.ini"),
    ]
    done = subprocess.run(
        [*command, str(HERE / "kernel_cases.py")], env=environment, timeout=3000, check=False
    )
    assert done.returncode == 0
