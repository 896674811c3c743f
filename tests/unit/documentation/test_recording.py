"""The README's terminal: a picture of what commands print, that fetches nothing and names no machine."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from tools import recording

ROOT = Path(__file__).resolve().parents[3]


def words(svg: str) -> str:
    return " ".join("".join(ElementTree.fromstring(svg).itertext()).replace("\xa0", " ").split())


def test_a_picture_holds_what_a_command_prints(tmp_path: Path) -> None:
    output = recording.said("codex-ray --version", tmp_path)
    svg = recording.picture([("codex-ray --version", output)])
    assert f"$ codex-ray --version {output}" in words(svg)
    assert "font-face" not in svg


def test_the_picture_in_the_readme_is_of_its_commands() -> None:
    svg = recording.PICTURE.read_text(encoding="utf-8")
    shown = words(svg)
    for command in recording.COMMANDS:
        assert f"$ {command}"[:90] in shown
    assert "completed" in shown and "validation" in shown
    assert "url(http" not in svg and not re.search(r"/(home|root|tmp|work)/", shown)
    assert "docs/_static/terminal.svg" in (ROOT / "README.md").read_text(encoding="utf-8")
