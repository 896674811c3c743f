from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_ray.corpus.sources.reasons import UnreadableError
from codex_ray.corpus.sources.text_of import TextOf
from codex_ray.errors import ConfigError
from tests.unit.corpus.sources.forms import (
    account,
    as_arrow_stream,
    as_jsonl,
    as_parquet,
    items,
    put,
    source,
)


def text_of(record: dict[str, Any], **settings: Any) -> str:
    return TextOf(source("x", **settings))(record)


def test_the_first_column_that_exists_is_the_text() -> None:
    assert text_of({"code": "c", "content": "b", "text": "a"}) == "a"
    assert text_of({"code": "c", "content": "b"}) == "b"
    assert text_of({"code": "c"}) == "c"
    assert text_of({"body": "x", "text": "y"}, column="body") == "x"
    with pytest.raises(UnreadableError, match="no text: no column body"):
        text_of({"text": "y"}, column="body")


@given(st.text(), st.text())
def test_templates_put_values_in_as_they_are(title: str, body: str) -> None:
    record = {"title": title, "body text": body}
    assert text_of(record, template="# {title}\n\n{{{body text}}}") == f"# {title}\n\n{{{body}}}"


@pytest.mark.parametrize(
    "template",
    ["{a.__class__}", "{a[0]}", "{a!r}", "{a:>9999999999}", "{}", "{a", "none", "{a:{b}}", "{0.x}"],
)
def test_templates_reach_nothing_but_columns(template: str) -> None:
    with pytest.raises(ConfigError, match="template"):
        text_of({"a": "x"}, template=template)


def test_templates_need_every_column_as_a_string() -> None:
    for record in ({"a": "x"}, {"a": "x", "b": None}, {"a": "x", "b": 1}):
        with pytest.raises(UnreadableError, match=r"^no text: .*b"):
            text_of(record, template="{a}{b}")


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="has column and messages"):
        text_of({}, column="a", messages="b")
    with pytest.raises(ConfigError, match="give messages=COLUMN"):
        text_of({}, chat_template="x.jinja")
    with pytest.raises(ConfigError, match="cannot be read"):
        text_of({}, messages="m", chat_template="nowhere.jinja")


CHAT = [{"role": "user", "content": "Hi {{ 1 }}"}, {"role": "assistant", "content": "Hello"}]
RENDERED = "<|im_start|>user\nHi {{ 1 }}<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"


def test_messages_are_rendered_alike_from_every_format(tmp_path: Path) -> None:
    rows = [{"chat": CHAT}] * 3
    for name, write in (("a.jsonl", as_jsonl), ("b.parquet", as_parquet), ("c.arrow", as_arrow_stream)):
        put(tmp_path / name, write(rows))
    assert list(account(items(source(tmp_path, messages="chat"))).values()) == [RENDERED] * 9


@pytest.mark.parametrize(
    "messages", [None, "text", [], ["x"], [{"role": "user"}], [{"role": 1, "content": "x"}], {"role": "user"}]
)
def test_what_is_no_conversation_is_refused(messages: Any) -> None:
    with pytest.raises(UnreadableError, match="no text: "):
        text_of({"chat": messages}, messages="chat")
    with pytest.raises(UnreadableError, match="no text: chat is not there"):
        text_of({}, messages="chat")


def test_a_chat_template_is_the_users_but_sandboxed(tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"

    def render(template: str) -> str:
        path.write_text(template)
        return text_of({"chat": CHAT}, messages="chat", chat_template=str(path))

    assert render("{% for m in messages %}{{ m['role'][0] }}:{{ m.content }};{% endfor %}") == (
        "u:Hi {{ 1 }};a:Hello;"
    )
    for hostile in (
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('roles must alternate') }}",
        "{{ 1 // 0 }}",
    ):
        with pytest.raises(UnreadableError, match="no text: the chat template failed: "):
            render(hostile)
    with pytest.raises(ConfigError, match="is wrong"):
        render("{% for %}")
