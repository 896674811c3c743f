"""How the languages of source files write comments, by the end of the file's name."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import NamedTuple


class Comments(NamedTuple):
    """What begins a line comment, and what encloses a block comment; empty where there is none."""

    line: str = ""
    begin: str = ""
    end: str = ""


_C = Comments("//", "/*", "*/")
_BLOCK = Comments("", "/*", "*/")
_HASH = Comments("#")
_DASHES = Comments("--")
_MARKUP = Comments("", "<!--", "-->")

_SUFFIXES = (
    (
        _C,
        "c h cc cpp cxx hh hpp hxx cu cuh m mm java js jsx mjs cjs ts tsx mts go rs swift kt kts scala cs "
        "dart php groovy gradle proto thrift glsl scss less v sv d zig sol vala hlsl wgsl",
    ),
    (_BLOCK, "css"),
    (
        _HASH,
        "py pyi pyx pxd sh bash zsh fish rb pl pm r jl yaml yml toml mk cmake tcl nim ex exs awk sed "
        "cfg conf gd tf nix bzl star pyw coffee",
    ),
    (Comments("--", "/*", "*/"), "sql"),
    (_DASHES, "adb ads vhd vhdl elm"),
    (Comments("--", "{-", "-}"), "hs purs"),
    (Comments("--", "--[[", "]]"), "lua"),
    (Comments(";"), "lisp cl clj cljs el scm rkt asm ini"),
    (Comments("#", "/*", "*/"), "s"),
    (Comments("%"), "tex sty cls erl hrl pro"),
    (Comments("!"), "f90 f95 f03 f08"),
    (Comments("'"), "vb bas vbs"),
    (Comments("//", "(*", "*)"), "fs fsi fsx"),
    (Comments("", "(*", "*)"), "ml mli sml"),
    (Comments("//", "{", "}"), "pas"),
    (Comments("#", "<#", "#>"), "ps1 psm1"),
    (_MARKUP, "html htm xml xhtml svg vue xsl xsd"),
    (Comments(), "json ipynb csv tsv wat jsonl geojson"),
)
LANGUAGES = {f".{suffix}": comments for comments, listed in _SUFFIXES for suffix in listed.split()}
_NAMES = {"makefile": _HASH, "dockerfile": _HASH, "cmakelists.txt": _HASH, "gnumakefile": _HASH}

MARKUP = frozenset({".html", ".htm", ".xml", ".xhtml", ".svg", ".tex", ".xsl", ".xsd", ".json", ".geojson"})


def suffix_of(name: str) -> str:
    """Return the end of a document's name; a record's place in its file (``file.py:12``) is left out."""
    path = PurePosixPath(name)
    return PurePosixPath(path.name.partition(":")[0]).suffix.lower()


def comments_of(name: str) -> Comments | None:
    """Return how a source file writes comments; None for what is no source file."""
    base = PurePosixPath(name).name.partition(":")[0].lower()
    return _NAMES.get(base) or LANGUAGES.get(suffix_of(name))
