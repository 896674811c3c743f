"""A page of HTML that refers to nothing outside itself: what the reports of runs and corpora share.

Whatever comes from outside the program goes through :func:`escape` on its way into a page.
"""

from __future__ import annotations

import html
import json
import re
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from codex_ray.track.environment import masked
from codex_ray.track.page_style import STYLE

POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # the browser, too, refuses anything from outside
SETTINGS_SHOWN = 200  # of a group; a corpus may have a million sources
# Control characters, line ends and tabs apart: a page must not hold them, so their pictures stand for them.
_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"} | {0x7F: 0x2421}
# What turns the direction of the text after it, in which a name could look like another.
_DIRECTIONS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def escape(text: object) -> str:
    """Return text that a page shows and never interprets; what cannot be seen or encoded becomes visible."""
    shown = str(text).translate(_CONTROLS).encode("utf-8", "backslashreplace").decode()
    return html.escape(_DIRECTIONS.sub(lambda found: f"\\u{ord(found[0]):04x}", shown))


def build_page(title: str, parts: Iterable[str]) -> str:
    """Return a whole page of the parts that are not empty, each HTML, and a line that dates it."""
    footer = f"<footer>Written by codex_ray on {time.strftime('%d %B %Y at %H:%M')}.</footer>"
    body = "\n".join(part for part in (*parts, footer) if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape(title)} · codex_ray</title><style>{STYLE}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def header(kind: str, title: str, facts: Iterable[str]) -> str:
    """Return the top of a page: what it is of, its name, and a line of facts."""
    line = " · ".join(escape(fact) for fact in facts if fact)
    return (
        f'<header><p class="eyebrow">codex_ray {kind}</p><h1>{escape(title)}</h1>'
        f'<p class="facts">{line}</p></header>'
    )


def tiles(figures: Iterable[tuple[str, str]]) -> str:
    """Return a row of headline figures, each with what it counts."""
    cells = [f"<div><b>{escape(value)}</b><span>{escape(label)}</span></div>" for value, label in figures]
    return f'<section class="tiles">{"".join(cells)}</section>' if cells else ""


def section(title: str, body: str, note: str = "") -> str:
    """Return a section of HTML, with a sentence of text before it; nothing where there is no body."""
    sentence = f"<p>{escape(note)}</p>" if note else ""
    return f"<section><h2>{escape(title)}</h2>{sentence}{body}</section>" if body else ""


def facts_table(items: Iterable[tuple[str, str]]) -> str:
    """Return a table of names and values; nothing where there are none."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in items)
    return f"<table>{rows}</table>" if rows else ""


def figure_card(drawing: str, title: str, aside: str, caption: str, label: str) -> str:
    """Return a drawing in a frame; ``label`` says in words what it shows."""
    return (
        f'<figure role="img" aria-label="{escape(label)}"><h3>{escape(title)} <b>{escape(aside)}</b></h3>'
        f"{drawing}<figcaption>{escape(caption)}</figcaption></figure>"
    )


def settings_section(config: Mapping[str, Any], own: str) -> str:
    """Return settings by group, folded but for those of no group, which are listed under ``own``."""
    plain = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    groups = {own: plain} | {key: value for key, value in config.items() if isinstance(value, Mapping)}
    return folded_section("Settings", groups, opened=own)


def folded_section(title: str, groups: Mapping[str, Mapping[str, Any]], opened: str = "") -> str:
    """Return tables of nested plain data, one to unfold for each group; credentials are masked."""
    parts = []
    for name, group in groups.items():
        rows = list(islice(_flat(group), SETTINGS_SHOWN + 1))
        more = "<p>and more</p>" if len(rows) > SETTINGS_SHOWN else ""
        if rows:
            parts.append(
                f"<details{' open' if name == opened else ''}><summary>{escape(name)}</summary>"
                f"{facts_table(rows[:SETTINGS_SHOWN])}{more}</details>"
            )
    return section(title, "".join(parts))


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _flat(item, f"{prefix}{key}.")
        else:
            text = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False, default=str)
            yield f"{prefix}{key}", masked(text)


def columns_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, words: Container[str] = (), total: bool = False
) -> str:
    """Return a table of several columns, each row on a card of its own where the screen is narrow.

    Args:
        heads: what the columns are; the first names the rows.
        rows: cells of text.
        words: columns of words; the others are of figures and end together.
        total: the last row adds up the others.
    """
    kinds = ["" if head in words else ' class="number"' for head in heads]
    top = "".join(f"<th{kind}>{escape(head)}</th>" for head, kind in zip(heads[1:], kinds[1:], strict=True))
    lines = []
    for first, *others in rows:
        cells = "".join(
            f'<td{kind} data-label="{escape(head)}">{escape(cell)}</td>'
            for head, kind, cell in zip(heads[1:], kinds[1:], others, strict=True)
        )
        lines.append(f"<tr><th>{escape(first)}</th>{cells}</tr>")
    last = f"<tfoot>{lines.pop()}</tfoot>" if total and lines else ""
    body = f"<thead><tr><th>{escape(heads[0])}</th>{top}</tr></thead><tbody>{''.join(lines)}</tbody>{last}"
    return f'<table class="columns">{body}</table>' if lines or last else ""
