"""Files of prompts: a JSON object a line, with a text ``prompt``. Imports neither torch nor Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from codex_ray.errors import CodexRayError

FORM = 'write one {"prompt": "..."} a line'

Record = dict[str, Any]
Group = tuple[int, list[str]]
"""Number of the first of some prompts, from 0, and their texts."""


def read_prompts(path: Path) -> Iterator[Record]:
    """Read JSON lines that each hold a text ``prompt``; their other keys are kept.

    Raises:
        CodexRayError: the file cannot be read, or a line is something else; the sentence has its number.
    """
    empty = True
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    empty = False
                    yield _record(line, number, path)
    except (OSError, UnicodeDecodeError) as error:
        raise CodexRayError(
            f"prompts file {path} cannot be read ({error}); give a UTF-8 text file"
        ) from error
    if empty:
        raise CodexRayError(f"prompts file {path} is empty; {FORM}")


def read_groups(path: Path, first: int, size: int) -> Iterator[Group]:
    """Read prompts from number ``first`` on, ``size`` at a time.

    Raises:
        CodexRayError: as :func:`read_prompts`.
    """
    records = islice(read_prompts(path), first, None)
    while group := [record["prompt"] for record in islice(records, size)]:
        yield first, group
        first += len(group)


def _record(line: str, number: int, path: Path) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CodexRayError(f"line {number} of {path} is not JSON ({error}); {FORM}") from error
    if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
        raise CodexRayError(f"line {number} of {path} has no text under 'prompt'; {FORM}")
    return record
