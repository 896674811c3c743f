"""How much of harmless text is masked: the standard library's sources and this project's documentation."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from codex_ray.safety import find

MOST = 0.001


@pytest.mark.parametrize("source", ["library", "documentation"])
def test_fewer_than_one_harmless_line_in_a_thousand_is_masked(source: str) -> None:
    folder, pattern = {
        "library": (Path(sysconfig.get_path("stdlib")), "*.py"),
        "documentation": (Path(__file__).parents[3] / "docs", "*.md"),
    }[source]
    files = sorted(folder.glob(pattern)) + sorted(folder.glob(f"[a-z]*/{pattern}"))
    files = [file for file in files if not {"test", "tests", "site-packages"} & set(file.parts)]
    lines = masked = 0
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace")
        lines += text.count("\n")
        masked += len({text.count("\n", 0, one.start) for one in find(text, secrets=True, personal=False)})
    assert lines > 2000 and masked / lines < MOST, (masked, lines)
