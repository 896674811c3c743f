"""Sphinx configuration: MyST pages, docstrings in Google style, and a page of settings made at build time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]
# What imports torch while pages are built shall not compete with it for cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from codex_ray import __version__  # noqa: E402

project = "codex_ray"
author = "the codex_ray authors"
project_copyright = "the codex_ray authors, Apache-2.0"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "diagrams",
    "licences_page",
    "notebooks_page",
    "rules_page",
    "settings_page",
]
exclude_patterns = ["_build", "_ext", "template"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
# An annotation `bytes` is taken for the attributes of that name, of which there are several.
suppress_warnings = ["ref.python"]
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"codex_ray {release}"
html_theme_options = {"navigation_with_keys": True}
