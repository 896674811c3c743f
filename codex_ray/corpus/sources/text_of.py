"""Which part of a record is the text: a column, a template over columns, or rendered chat messages."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from string import Formatter
from typing import Any

from codex_ray.config.corpus import Source
from codex_ray.corpus.sources.reasons import UnreadableError
from codex_ray.errors import ConfigError
from codex_ray.tokenizer.chat import TemplateFailure, renderer

COLUMNS = ("text", "content", "code")


class TextOf:
    """Takes the text out of records, as a source's settings say.

    Raises:
        ConfigError: the settings contradict each other, or a template is wrong.
    """

    def __init__(self, source: Source) -> None:
        ways = [name for name in ("column", "template", "messages") if getattr(source, name) is not None]
        if len(ways) > 1:
            raise ConfigError(f"source {source.path} has {ways[0]} and {ways[1]}; give one of them")
        if source.chat_template is not None and source.messages is None:
            raise ConfigError(
                f"source {source.path} has a chat_template but no messages; give messages=COLUMN"
            )
        self._column = source.column
        self._messages = source.messages
        self._template = _parse_template(source.template) if source.template is not None else None
        self._render = renderer(source.chat_template) if source.messages is not None else None

    def columns(self, available: Collection[str]) -> list[str]:
        """Return which columns of a table must be read."""
        if self._template is not None:
            wanted = dict.fromkeys(field for _, field in self._template if field is not None)
            return [name for name in wanted if name in available]
        name = self._messages or self._column or _first_column(available)
        return [name] if name in available else []

    def __call__(self, record: Mapping[str, Any]) -> str:
        """Return the text of a record.

        Raises:
            UnreadableError: it has none.
        """
        if self._template is not None:
            return "".join(
                literal + ("" if field is None else _string(record, field))
                for literal, field in self._template
            )
        if self._messages is not None and self._render is not None:
            try:
                return self._render(_conversation(record, self._messages))
            except TemplateFailure as error:
                raise UnreadableError(f"no text: the chat template failed: {error}") from error
        return _string(record, self._column or _first_column(record))


def _first_column(available: Collection[str]) -> str:
    found = next((name for name in COLUMNS if name in available), None)
    if found is None:
        there = ", ".join(sorted(map(str, available))[:8]) or "none"
        raise UnreadableError(f"no text: none of the columns text, content and code; there are {there}")
    return found


def _string(record: Mapping[str, Any], column: str) -> str:
    if column not in record:
        raise UnreadableError(f"no text: no column {column}")
    value = record[column]
    if isinstance(value, UnreadableError):
        raise value
    if value is None:
        raise UnreadableError(f"no text: {column} is null")
    if not isinstance(value, str):
        raise UnreadableError(f"no text: {column} is {type(value).__name__}, not a string")
    return value


def _parse_template(template: str) -> list[tuple[str, str | None]]:
    """Cut a template into pairs of literal text and the column after it.

    Columns are put in as they are: nothing of a value but its text can be reached.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"template {template!r} is wrong ({error}); write {{{{ for a brace") from error
    for _, field, form, conversion in parts:
        if field is None:
            continue
        if not field or any(mark in field for mark in ".[]") or form or conversion:
            inside = field + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            raise ConfigError(f"template {template!r} has {{{inside}}}; give just the name of a column there")
    if not any(field is not None for _, field, _, _ in parts):
        raise ConfigError(f"template {template!r} names no column; write one as {{column}}")
    return [(literal, field) for literal, field, _, _ in parts]


def _conversation(record: Mapping[str, Any], column: str) -> list[dict[str, Any]]:
    messages = record.get(column)
    if isinstance(messages, UnreadableError):
        raise messages
    if column not in record or messages is None:
        raise UnreadableError(f"no text: {column} is {'null' if column in record else 'not there'}")
    if not isinstance(messages, list) or not messages:
        raise UnreadableError(f"no text: {column} is no list of messages")
    for place, message in enumerate(messages, 1):
        for key in ("role", "content"):
            if not isinstance(message, dict) or not isinstance(message.get(key), str):
                raise UnreadableError(f"no text: message {place} of {column} has no {key} that is a string")
    return messages
