"""The notebooks that the documentation is made with: one for each stage, of the page's own code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
STAGES = ["prepare", "pretrain", "finetune", "discover", "evaluate", "export", "serve"]


@pytest.fixture(autouse=True)
def extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))


def test_every_stage_has_a_notebook_of_its_code(tmp_path: Path) -> None:
    from notebooks_page import write

    page = (ROOT / "docs" / "python.md").read_text()
    (tmp_path / "python.md").write_text(page)
    written = write(tmp_path)
    assert [path.stem for path in written] == STAGES
    for path in written:
        notebook = json.loads(path.read_text())
        assert (notebook["nbformat"], notebook["cells"][0]["cell_type"]) == (4, "markdown")
        code = "".join(notebook["cells"][1]["source"])
        assert code in page
        compile(code, path.name, "exec")
    assert write(tmp_path) == written
    assert sys.modules.pop("notebooks_page")


def test_a_section_without_a_notebook_is_an_error() -> None:
    from notebooks_page import notebooks

    with pytest.raises(ValueError, match=r"'Alone' of python\.md names no notebook"):
        notebooks("# Page\n\n## Alone\n\ntext\n")
