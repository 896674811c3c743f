"""Pages of reports, parsed."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "br", "path", "use", "rect", "line"}


class Page(HTMLParser):
    """Collects tags, references, event handlers, tables' rows and text; elements must close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.handlers: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._look(attributes)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._look(attributes)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, f"{tag} closes out of order"

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def _look(self, attributes: list[tuple[str, str | None]]) -> None:
        self.references += [
            str(value) for name, value in attributes if name in ("src", "href", "xlink:href", "srcset")
        ]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
