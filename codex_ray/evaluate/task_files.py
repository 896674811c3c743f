"""Tasks from files: rows of any form, and YAML files that say how rows are to be read and measured."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from codex_ray.config import saved
from codex_ray.config.corpus import Limits, Source
from codex_ray.config.evaluate import Rows, TaskFile
from codex_ray.config.fields import build
from codex_ray.corpus.raw import Quarantined
from codex_ray.corpus.sources.read import read_unit
from codex_ray.corpus.sources.reasons import UnreadableError
from codex_ray.corpus.sources.storage import is_url
from codex_ray.corpus.sources.units import find_units
from codex_ray.errors import CodexRayError, ConfigError, nearest
from codex_ray.evaluate.metrics import Example
from codex_ray.evaluate.tasks import Task

UNIT_BYTES = 64 * 2**20
SUFFIXES = (".yaml", ".yml")
REFERENCES = ("references", "response")  # columns looked for where none is named
_COLUMN = re.compile(r"\{(\w+)\}")


def read_task(path: str, count: int | None = None) -> Task:
    """Read a task's YAML file and its rows, at most ``count`` of them.

    Raises:
        ConfigError: a field that is unknown or of the wrong kind; the sentence names the nearest.
        CodexRayError: the file or its data cannot be read, or a row lacks a column.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise CodexRayError(f"task file {path} does not exist; check the path")
    settings = build(TaskFile, saved.read(file), f"{file.name}: ")
    local = not is_url(settings.data) and not Path(settings.data).expanduser().is_absolute()
    data = str(file.parent / settings.data) if local else settings.data
    return task_of_rows(
        settings,
        data,
        count=count,
        name=settings.name or file.stem,
        version=settings.version,
        description=settings.description,
    )


def task_of_rows(
    settings: Rows,
    data: str,
    *,
    count: int | None = None,
    name: str | None = None,
    version: str = "1",
    description: str = "",
    answered: bool = False,
) -> Task:
    """Make a task of rows: JSON Lines, CSV, Parquet, Arrow or a folder that the datasets library saved.

    Args:
        settings: which columns they have, and how answers are generated and measured.
        data: file, folder, glob or URL.
        count: rows that are read; unset is all.
        name: unset is the file's; ``version`` and ``description`` are the task's.
        answered: rows hold answers, and so need no prompts.

    Raises:
        ConfigError: an unknown metric, two rows of one id, or a template that names no column.
        CodexRayError: the data cannot be read, or a row lacks a column.
    """
    examples = tuple(
        _example(settings, record, number, data, answered)
        for number, record in enumerate(islice(read_rows(data, settings.format), count))
    )
    return Task(
        name or Path(data).name.partition(".")[0],
        examples,
        settings.answering,
        tuple(settings.metrics),
        version=version,
        verifier=settings.verifier,
        description=description,
    )


def read_rows(data: str, form: str = "auto") -> Iterator[dict[str, Any]]:
    """Read records, in order.

    Raises:
        CodexRayError: there is nothing, or a record cannot be read; the sentence names it.
    """
    if not is_url(data) and not glob.has_magic(data) and not Path(data).expanduser().exists():
        raise CodexRayError(f"{data} does not exist; give a file, folder, glob or URL of rows")
    source = Source(path=data, format=form)
    for unit in find_units("rows", source, (), unit_bytes=UNIT_BYTES):
        for item in read_unit(unit, source, Limits(), _WholeRecord()):
            if isinstance(item, Quarantined):
                raise CodexRayError(
                    f"{item.name} of {data} cannot be read ({item.reason}); mend it or take it out"
                )
            record: dict[str, Any] = json.loads(item.content)
            yield record


class _WholeRecord:
    """Takes all of a record, as JSON."""

    def columns(self, available: Collection[str]) -> list[str]:
        return list(available)

    def __call__(self, record: Mapping[str, Any]) -> str:
        for value in record.values():
            if isinstance(value, UnreadableError):
                raise value
        return json.dumps(dict(record), default=str)


def _example(settings: Rows, record: Mapping[str, Any], number: int, data: str, answered: bool) -> Example:
    where = f"row {number + 1} of {data}"
    messages = record.get(settings.messages)
    if settings.template is not None:
        prompt: Any = _filled(settings.template, record, where)
    elif settings.prompt in record:
        prompt = record[settings.prompt]
        if not isinstance(prompt, str):
            raise CodexRayError(f"{where} has no text under {settings.prompt!r}, its prompt; mend it")
    elif isinstance(messages, list) and messages:
        return _conversation(settings, record, messages, number, where)
    elif answered:
        prompt = ""
    else:
        raise _missing(settings.prompt, record, where, "prompt")
    references = _references(settings, record, where)
    return Example(row_id(settings, record, number), prompt, references, dict(record))


def _conversation(
    settings: Rows, record: Mapping[str, Any], messages: list[Any], number: int, where: str
) -> Example:
    for message in messages:
        if not isinstance(message, dict) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise CodexRayError(f"{where} has a message without a role and a content that are text; mend it")
    given = _references(settings, record, where)
    answered = messages[-1]["role"] == "assistant"
    asked = tuple(messages[:-1] if answered else messages)
    if not asked:
        raise CodexRayError(f"{where} has no message before the assistant's; give what it answers")
    references = given or ((messages[-1]["content"],) if answered else ())
    return Example(row_id(settings, record, number), asked, references, dict(record))


def row_id(settings: Rows, record: Mapping[str, Any], number: int) -> str:
    """Return the name of a row: its id, or its number from 0."""
    given = record.get(settings.id)
    return str(number if given is None else given)


def _references(settings: Rows, record: Mapping[str, Any], where: str) -> tuple[str, ...]:
    column = settings.references or next((name for name in REFERENCES if name in record), None)
    if column is None:
        return ()
    if column not in record:
        raise _missing(column, record, where, "references")
    value = record[column]
    found = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in found):
        raise CodexRayError(
            f"{where} has references under {column!r} that are no text; give a text or a list"
        )
    return tuple(str(one) for one in found)


def _filled(template: str, record: Mapping[str, Any], where: str) -> str:
    names = _COLUMN.findall(template)
    if not names:
        raise ConfigError(
            f"the template {template!r} names no column; write {{column}} where one is to stand"
        )
    for name in names:
        if name not in record:
            raise _missing(name, record, where, "template")
    return _COLUMN.sub(lambda slot: str(record[slot[1]]), template)


def _missing(column: str, record: Mapping[str, Any], where: str, what: str) -> CodexRayError:
    there = ", ".join(sorted(map(str, record))[:8]) or "nothing"
    hint = nearest(column, map(str, record))
    return CodexRayError(f"{where} has no column {column!r} for its {what}{hint}; there are {there}")
