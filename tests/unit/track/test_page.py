"""What a page shows of text from outside: all of it, and never as HTML."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.track.page import SETTINGS_SHOWN, build_page, columns_table, escape, settings_section
from tests.unit.track.pages import Page

ANY = st.text(st.characters() | st.sampled_from("<>&\"'\0\x1b\u202e\u2066\r\n"), max_size=40)


@settings(deadline=None)
@given(ANY)
def test_any_text_is_shown_and_never_interpreted(text: str) -> None:
    page = Page(f'<p title="{escape(text)}">{escape(text)}</p>')
    assert page.tags == ["p"]
    page.text.encode()
    assert not set(page.text) & {*map(chr, range(9)), "\x1b", "\x7f", "\u202e", "\u2066"}
    if all(char.isprintable() for char in text):
        assert page.text == text


def test_what_cannot_be_seen_or_encoded_is_spelled_out() -> None:
    assert escape("a\0b") == "a\u2400b"
    assert escape("name\u202etxt.exe") == "name\\u202etxt.exe"
    assert escape("\ud800") == "\\ud800"


@settings(deadline=None)
@given(st.lists(st.tuples(ANY, ANY, ANY), max_size=4))
def test_tables_hold_their_cells(rows: list[tuple[str, str, str]]) -> None:
    table = columns_table(("a", "<b>", "c"), rows, words=("c",))
    found = Page(table).rows
    assert len(found) == (len(rows) + 1 if rows else 0)
    assert all(len(row) == 3 for row in found)


def test_settings_are_masked_and_bounded() -> None:
    config = {"seed": 1, "sources": {f"s{n}": {"path": f"https://me:pass@host/{n}"} for n in range(10**5)}}
    page = Page(build_page("<title>", [settings_section(config, "corpus")]))
    assert ["seed", "1"] in page.rows and ["s7.path", "https://***@host/7"] in page.rows
    assert len(page.rows) == SETTINGS_SHOWN + 1 and "and more" in page.text and "pass@" not in page.text
