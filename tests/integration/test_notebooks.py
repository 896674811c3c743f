"""The notebooks of the documentation, run cell by cell in one folder, each in a Python of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import json, sys
cells = json.load(open(sys.argv[1]))["cells"]
names = {"__name__": "__main__"}
for cell in cells:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), sys.argv[1], "exec"), names)
"""


@pytest.mark.verify
@pytest.mark.integration
@pytest.mark.timeout(1800)
def test_every_notebook_runs_after_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    from notebooks_page import write

    (tmp_path / "python.md").write_text((ROOT / "docs" / "python.md").read_text())
    work = tmp_path / "work"
    work.mkdir()
    said = {}
    for path in write(tmp_path):
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(path)],
            cwd=work,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, (path.name, done.stdout[-2000:], done.stderr[-3000:])
        said[path.stem] = done.stdout
    assert "corpus" in said["prepare"] and "runs/first" in said["pretrain"]
    assert "run " in said["export"] and "corpus " in said["export"]
    assert json.loads((work / "measured" / "summary.json").read_text())["bits_per_byte"] > 0
