"""Write a notebook for each stage before Sphinx reads its sources: the sections of ``python.md``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

SECTION = re.compile(r"^## (?P<title>.+)\n(?P<body>(?:(?!^## ).*\n?)*)", re.MULTILINE)
NAME = re.compile(r"_static/notebooks/(\w+)\.ipynb")
CODE = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir)))
    return {"parallel_read_safe": True}


def write(docs: Path) -> list[Path]:
    """Write every notebook below ``_static/notebooks`` and return them, in the order of the stages."""
    folder = docs / "_static" / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, notebook in notebooks((docs / "python.md").read_text(encoding="utf-8")).items():
        path = folder / f"{name}.ipynb"
        text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def notebooks(page: str) -> dict[str, dict[str, Any]]:
    """Return the notebook (nbformat 4.5) of each section of a page, by name."""
    found = {}
    for section in SECTION.finditer(page):
        name = NAME.search(section["body"])
        if name is None:
            raise ValueError(f"the section {section['title']!r} of python.md names no notebook")
        words, *rest = CODE.split(section["body"])
        cells = [_cell("markdown", f"# {section['title']}\n\n{words.strip()}", 0)]
        cells += [_cell("code", code.rstrip(), place) for place, code in enumerate(rest[::2], 1)]
        found[name[1]] = {
            "cells": cells,
            "metadata": {
                "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                "language_info": {"name": "python"},
            },
            "nbformat": 4,
            "nbformat_minor": 5,
        }
    return found


def _cell(kind: str, text: str, place: int) -> dict[str, Any]:
    source = text.splitlines(keepends=True)
    cell: dict[str, Any] = {"cell_type": kind, "id": f"cell{place}", "metadata": {}, "source": source}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})
