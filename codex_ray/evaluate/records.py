"""What an evaluation leaves: its figures as JSON, CSV and Parquet, every example, and a manifest.

Texts are masked of secrets and personal data on their way into the folder.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from codex_ray.errors import CodexRayError
from codex_ray.evaluate.metrics import find_metric
from codex_ray.evaluate.store import Answer
from codex_ray.evaluate.tasks import EMPTY, Scored
from codex_ray.files import read_json, replacing, sha256_of, write_json, write_text
from codex_ray.safety import redact

FORMAT_VERSION = 1
MANIFEST, EXAMPLES, RESULTS = "evaluation.json", "examples.ndjson", "results"


@dataclass(frozen=True)
class TaskRecord:
    """A task's figures and examples as they lie in a folder.

    Attributes:
        name, version, digest, data_digest, description: of the task.
        figures: by metric: value, low, high, examples, method.
        examples: records in order, each with its scores and statistics by metric.
        best: the highest value that a metric can reach, where it is said.
    """

    name: str
    version: str
    digest: str
    data_digest: str
    description: str
    figures: dict[str, dict[str, Any]]
    examples: list[dict[str, Any]]
    best: dict[str, float] = field(default_factory=dict)


def record_of(scored: Scored, answers: Sequence[Sequence[Answer]]) -> TaskRecord:
    """Put a scored task into records; texts are masked."""
    task = scored.task
    values = {name: scored.values(name).tolist() for name in scored.statistics}
    examples = []
    for place, (one, mine) in enumerate(zip(scored.answers, answers, strict=True)):
        record: dict[str, Any] = {
            "task": task.name,
            "id": one.example.id,
            "prompt": _masked(_text(one.example.prompt)),
            "outputs": [_masked(text) for text in one.texts],
            "references": [_masked(text) for text in one.example.references],
            "scores": {name: values[name][place] for name in values},
            "statistics": {name: rows[place].tolist() for name, rows in scored.statistics.items()},
            "finish_reasons": [answer.finish_reason for answer in mine],
            "tokens": [answer.tokens for answer in mine],
        }
        if one.verdicts:
            record["verdicts"] = list(one.verdicts)
        examples.append(record)
    figures = {name: asdict(interval) for name, interval in scored.figures.items()}
    return TaskRecord(
        task.name,
        task.version,
        task.digest,
        task.data_digest,
        task.description,
        figures,
        examples,
        dict(task.best),
    )


def silence(record: TaskRecord) -> str | None:
    """Say how many of a task's answers hold nothing but blanks; None where none is empty."""
    texts = [text for example in record.examples for text in example["outputs"]]
    empty = sum(not text.strip() for text in texts)
    if empty < len(texts):
        return f"{empty} of {len(texts)} answers are empty" if empty else None
    return f"all {empty} answers are empty: nothing was written, and no metric says more than that"


def flat_figures(records: Iterable[TaskRecord]) -> dict[str, float]:
    """Return ``task/metric`` with its ends as ``_low`` and ``_high``, as in summary.json."""
    found: dict[str, float] = {}
    for record in records:
        for name, figure in record.figures.items():
            ends = () if name == EMPTY else (("_low", "low"), ("_high", "high"))
            for suffix, key in (("", "value"), *ends):
                found[_figure_name(f"{record.name}/{name}{suffix}")] = figure[key]
        found[_figure_name(f"{record.name}/examples")] = len(record.examples)
    return found


def _figure_name(name: str) -> str:
    """Return a name that MLflow takes too, which knows few signs."""
    return re.sub(r"[^\w\-. /]", "_", name.replace("@", "_at_"))


def write_tasks(folder: Path, records: Sequence[TaskRecord], model: Mapping[str, Any]) -> None:
    """Write examples.ndjson, results as JSON, CSV and Parquet, and last evaluation.json with their hashes.

    Raises:
        CodexRayError: the folder cannot be written.
    """
    examples = (example for record in records for example in record.examples)
    write_lines(folder / EXAMPLES, examples)
    rows = [
        {
            "task": record.name,
            "version": record.version,
            "metric": name,
            **figure,
            "best": record.best.get(name),
            "task_digest": record.digest,
        }
        for record in records
        for name, figure in record.figures.items()
    ]
    write_json(folder / f"{RESULTS}.json", rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / f"{RESULTS}.csv", text.getvalue())
    _write_parquet(folder / f"{RESULTS}.parquet", rows)
    files = [EXAMPLES, *(f"{RESULTS}.{form}" for form in ("json", "csv", "parquet"))]
    tasks = [{k: v for k, v in asdict(record).items() if k != "examples"} for record in records]
    manifest = {
        "format_version": FORMAT_VERSION,
        "model": dict(model),
        "tasks": tasks,
        "files": {name: sha256_of(folder / name) for name in files},
    }
    write_json(folder / MANIFEST, manifest)


def read_tasks(folder: Path) -> list[TaskRecord]:
    """Read what :func:`write_tasks` wrote.

    Raises:
        CodexRayError: there is no evaluation of tasks, or it is damaged.
    """
    manifest = read_json(folder / MANIFEST, "the evaluation's manifest")
    try:
        if manifest["format_version"] != FORMAT_VERSION:
            raise CodexRayError(
                f"{folder / MANIFEST} has format {manifest['format_version']} and this version reads "
                f"{FORMAT_VERSION}; evaluate again"
            )
        if sha256_of(folder / EXAMPLES) != manifest["files"][EXAMPLES]:
            raise CodexRayError(f"{folder / EXAMPLES} is damaged (its SHA-256 is another); evaluate again")
        lines = (folder / EXAMPLES).read_text(encoding="utf-8").split("\n")
        examples = [json.loads(line) for line in lines if line]
        return [
            TaskRecord(**task, examples=[one for one in examples if one["task"] == task["name"]])
            for task in manifest["tasks"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CodexRayError(f"the evaluation in {folder} is damaged ({error}); evaluate again") from error


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines in one step.

    Raises:
        CodexRayError: the folder cannot be written.
    """
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def is_share(metric: str) -> bool:
    """Whether a figure's values lie between 0 and 1."""
    return metric == EMPTY or find_metric(metric).share


def _write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"value": pa.float64(), "low": pa.float64(), "high": pa.float64(), "best": pa.float64()}
    kinds |= {"examples": pa.int64()}
    schema = pa.schema([pa.field(name, kinds.get(name, pa.string())) for name in rows[0]])
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), temporary)


def _text(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def _masked(text: str) -> str:
    return redact(text, secrets="mask", personal="mask").text
