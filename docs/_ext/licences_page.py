"""Write ``licences.md`` before Sphinx reads its sources: every locked package with its licence."""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from release import licence_of, locked

INTRODUCTION = """# Licences

codex_ray is under Apache-2.0. These are the packages of the lock, development tools among them, with the
licences that they declare; a release's bill of materials (CycloneDX) holds the same.

| Package | Version | Licence |
| --- | --- | --- |
"""


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", lambda app: write_page(Path(app.srcdir) / "licences.md"))
    return {"parallel_read_safe": True}


def write_page(path: Path) -> None:
    """Write the page where it differs, so that Sphinx reads it again only then."""
    rows = (f"| {name} | {version} | {_plain(licence_of(name))} |\n" for name, version in locked())
    text = INTRODUCTION + "".join(rows)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _plain(text: str) -> str:
    return text.replace("|", "/").replace("<", "(").replace(">", ")")
