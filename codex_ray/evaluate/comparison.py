"""``evaluate compare``: two evaluations of the same examples, two runs, or two files of scores, in pairs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from codex_ray.config.evaluate import CompareEvaluations
from codex_ray.errors import CodexRayError, ConfigError, nearest
from codex_ray.evaluate.intervals import Difference, holm, paired
from codex_ray.evaluate.metrics import Array, Combine, find_metric, mean
from codex_ray.evaluate.page import shown
from codex_ray.evaluate.records import MANIFEST, TaskRecord, read_tasks
from codex_ray.evaluate.task_files import read_rows
from codex_ray.files import write_json, write_text
from codex_ray.track.page import build_page, columns_table, header, section
from codex_ray.track.progress import Progress, figure, open_progress

KEYS = ("id", "step")
UNSCORED = frozenset({"time", "attempt"})  # numbers of a run's lines that are no figures
HEADS = ("figure", "first", "second", "difference", "interval", "p", "p, adjusted", "pairs")


@dataclass(frozen=True)
class Compared:
    """One metric of both.

    Attributes:
        name: of the metric, after its task's where there is one.
        difference: both values, their difference and the p-value.
        adjusted: the p-value adjusted for how many metrics were compared (Holm).
        show: writes a value for people.
    """

    name: str
    difference: Difference
    adjusted: float
    show: Callable[[float], str]


@dataclass(frozen=True)
class _Pair:
    name: str
    first: Array
    second: Array
    combine: Combine
    show: Callable[[float], str]


def compare_verb(settings: CompareEvaluations, progress: Progress | None = None) -> list[Compared]:
    """Compare, print a table, and write a folder where ``output`` names one.

    Raises:
        ConfigError: there is no such metric, or scores that are no numbers.
        CodexRayError: the two are not of the same examples, or one cannot be read.
    """
    found = compare(settings)
    rows = [_row(one) for one in found]
    if settings.output is not None:
        folder = Path(settings.output).expanduser()
        write_json(folder / "comparison.json", [_plain(one) for one in found])
        body = [
            header("comparison", f"{settings.first} · {settings.second}", [_how(settings)]),
            section("Differences", columns_table(HEADS, rows)),
        ]
        write_text(folder / "report.html", build_page("comparison", body))
    with open_progress(progress, settings.progress) as display:
        display.table(f"{settings.second} less {settings.first}", rows, HEADS)
    return found


def compare(settings: CompareEvaluations) -> list[Compared]:
    """Compare two evaluations, runs or files of scores; errors are those of :func:`compare_verb`."""
    folders = [Path(place).expanduser() for place in (settings.first, settings.second)]
    evaluated = [(folder / MANIFEST).is_file() for folder in folders]
    if all(evaluated):
        pairs = _of_tasks(read_tasks(folders[0]), read_tasks(folders[1]), settings)
    elif any(evaluated):
        raise CodexRayError(
            f"{settings.first} and {settings.second} cannot be paired: one is an evaluation of tasks and the "
            "other is not; give two of a kind"
        )
    else:
        pairs = _of_rows(settings)
    differences = [paired(one.first, one.second, one.combine, settings.bootstrap) for one in pairs]
    adjusted = holm([difference.p_value for difference in differences])
    return [
        Compared(one.name, difference, p_value, one.show)
        for one, difference, p_value in zip(pairs, differences, adjusted, strict=True)
    ]


def _of_tasks(
    first: Sequence[TaskRecord], second: Sequence[TaskRecord], settings: CompareEvaluations
) -> list[_Pair]:
    others = {record.name: record for record in second}
    common = [(record, others[record.name]) for record in first if record.name in others]
    if not common:
        raise CodexRayError(
            f"{settings.first} and {settings.second} have no task in common "
            f"({', '.join(record.name for record in first)}; {', '.join(others)}); evaluate both on the same"
        )
    pairs = []
    for one, other in common:
        if one.data_digest != other.data_digest:
            raise CodexRayError(
                f"task {one.name} has other examples in {settings.first} (version {one.version}) than in "
                f"{settings.second} (version {other.version}); evaluate both on the same"
            )
        for name in one.examples[0]["statistics"]:
            if name in other.examples[0]["statistics"] and (not settings.metrics or name in settings.metrics):
                mine, theirs = _statistics(one, name), _statistics(other, name)
                combine = find_metric(name).combine
                pairs.append(_Pair(f"{one.name} {name}", mine, theirs, combine, _shower(name)))
    known = {name for one, _ in common for name in one.examples[0]["statistics"]}
    _refuse_unknown(settings, known)
    return pairs


def _of_rows(settings: CompareEvaluations) -> list[_Pair]:
    first, second = (_scores(place, settings.key) for place in (settings.first, settings.second))
    keys = [key for key in first if key in second]
    if not keys:
        raise CodexRayError(
            f"{settings.first} and {settings.second} have no row in common; they are paired by id or step, "
            "or by key=COLUMN"
        )
    if settings.metrics:
        known = {name for rows in (first, second) for key in keys for name in rows[key]}
        _refuse_unknown(settings, known)
        names = settings.metrics
    else:
        names = _common_numbers([rows[key] for rows in (first, second) for key in keys])
        names = [name for name in names if name != settings.key]
        if not names:
            raise CodexRayError(
                f"{settings.first} and {settings.second} have no column of numbers in common; name one with "
                "metrics=[NAME]"
            )
    pairs = []
    for name in names:
        both = [key for key in keys if all(rows[key].get(name) is not None for rows in (first, second))]
        pairs.append(_Pair(name, _numbers(first, both, name), _numbers(second, both, name), mean, figure))
    return pairs


def _statistics(record: TaskRecord, metric: str) -> Array:
    return np.array([example["statistics"][metric] for example in record.examples], dtype=np.float64)


def _scores(place: str, key: str | None) -> dict[str, dict[str, Any]]:
    path = Path(place).expanduser()
    if path.is_dir() and (path / "metrics.jsonl").is_file():
        path = path / "metrics.jsonl"
    elif path.is_dir():
        raise CodexRayError(
            f"{place} is neither an evaluation of tasks ({MANIFEST}) nor a run (metrics.jsonl); "
            "check the path"
        )
    rows: dict[str, dict[str, Any]] = {}
    for number, record in enumerate(read_rows(str(path)), start=1):
        name = next((record[column] for column in ([key] if key else KEYS) if column in record), None)
        if name is None:
            raise CodexRayError(
                f"row {number} of {path} has no {key or 'id or step'} to be paired by; name a column "
                "with key=COLUMN"
            )
        if str(name) in rows and name != record.get("step"):
            raise CodexRayError(
                f"row {number} of {path} has the key {name!r} of an earlier one; give each its own"
            )
        rows[str(name)] = rows.get(str(name), {}) | record  # of a step that was done again, the newest
    return rows


def _numbers(rows: Mapping[str, Mapping[str, Any]], keys: Iterable[str], name: str) -> Array:
    values = []
    for key in keys:
        value = rows[key].get(name)
        if not _is_number(value):
            raise ConfigError(
                f"{name} of row {key!r} is {json.dumps(value)[:80]}, and only numbers can be resampled; name "
                "others with metrics=[NAME,...], or mend it"
            )
        values.append([float(value), 1.0])
    return np.array(values).reshape(-1, 2)


def _common_numbers(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns that hold something in every row, and a number in one or more.

    So a score that is a number here and a word there is not left out in silence: it is refused later.
    """
    return [
        name
        for name in rows[0]
        if name not in UNSCORED
        and name not in KEYS
        and all(row.get(name) is not None for row in rows)
        and any(isinstance(row[name], int | float) for row in rows)
    ]


def _is_number(value: object) -> TypeGuard[int | float]:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def _refuse_unknown(settings: CompareEvaluations, known: Iterable[str]) -> None:
    names = sorted(known)
    for name in settings.metrics:
        if name not in names:
            raise ConfigError(
                f"{name!r} is no metric of {settings.first} and {settings.second}{nearest(name, names)}; "
                f"there are {', '.join(names)}"
            )


def _shower(metric: str) -> Callable[[float], str]:
    return lambda value: shown(metric, value)


def _row(one: Compared) -> tuple[str, ...]:
    found, show = one.difference, one.show
    interval = found.difference
    return (
        one.name,
        show(found.first),
        show(found.second),
        f"{'+' if interval.value > 0 else ''}{show(interval.value)}",
        f"{show(interval.low)} to {show(interval.high)}",
        f"{found.p_value:.3g}",
        f"{one.adjusted:.3g}",
        str(interval.examples),
    )


def _plain(one: Compared) -> dict[str, Any]:
    return {"name": one.name, **asdict(one.difference), "p_value_adjusted": one.adjusted}


def _how(settings: CompareEvaluations) -> str:
    chosen = settings.bootstrap
    return (
        f"paired bootstrap and randomisation test, {chosen.resamples} resamples each, intervals of "
        f"{chosen.confidence:.0%}, p-values adjusted by Holm's method"
    )
