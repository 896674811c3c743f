"""Write ``rules.md`` before Sphinx reads its sources: every cleaning rule, its bound and its source."""

from __future__ import annotations

from pathlib import Path

from sphinx.application import Sphinx

from codex_ray.corpus.cleaning.rules import RULES

INTRODUCTION = """# Cleaning rules

Every rule a document can be dropped by, as `prepare` counts and reports it; [Cleaning](cleaning.md) says
how they are applied. Generated from `codex_ray/corpus/cleaning/rules.py`.

| Rule | A document passes with | Published in |
| --- | --- | --- |
"""


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", lambda app: write_page(Path(app.srcdir) / "rules.md"))
    return {"parallel_read_safe": True}


def write_page(path: Path) -> None:
    """Write the page where it differs, so that Sphinx reads it again only then."""
    rows = (f"| `{name}` | {rule.bound} | {rule.source} |\n" for name, rule in RULES.items())
    text = INTRODUCTION + "".join(rows)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
