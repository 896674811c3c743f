"""The ``evaluate`` verb: held-out text by likelihood, and tasks by what a model answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codex_ray.config import saved
from codex_ray.config.evaluate import OWN, Evaluate, of_harness, refuse_measurement
from codex_ray.config.fields import to_dict
from codex_ray.corpus.manifest import Manifest
from codex_ray.errors import ConfigError, Interrupted
from codex_ray.evaluate.baselines import NGRAM_ORDER
from codex_ray.evaluate.documents import measured_documents
from codex_ray.evaluate.headers import HeaderResult
from codex_ray.evaluate.held_out import HeldOut, measure_documents
from codex_ray.evaluate.intervals import Interval
from codex_ray.evaluate.likelihood import Likelihood
from codex_ray.evaluate.masked import is_masked, measure_masked
from codex_ray.evaluate.page import write_page
from codex_ray.evaluate.prompt_filter import measure_prompt_filter
from codex_ray.evaluate.records import (
    TaskRecord,
    flat_figures,
    is_share,
    record_of,
    silence,
    write_lines,
    write_tasks,
)
from codex_ray.evaluate.redaction import measure_redaction
from codex_ray.evaluate.task_run import load_tasks, run_tasks
from codex_ray.evaluate.tasks import EMPTY, Scored, Task
from codex_ray.files import write_json
from codex_ray.model.lineage import life_of
from codex_ray.rollout.load import load_with_tokenizer
from codex_ray.rollout.spread import settled
from codex_ray.track import MlflowRun, Progress, open_progress, write_environment
from codex_ray.track.progress import figure

if TYPE_CHECKING:
    from codex_ray.tokenizer import Tokenizer

LABELS = {
    "bits_per_byte": "bits per byte",
    "gzip_bits_per_byte": "  gzip -9, file by file",
    "xz_bits_per_byte": "  xz -9, file by file",
    "xz_primed_bits_per_byte": "  xz -9 after the training text",
    "unigram_bits_per_byte": "  unigrams of the training tokens",
    "ngram_bits_per_byte": f"  {NGRAM_ORDER}-grams of the training tokens",
    "perplexity": "perplexity of a token",
    "pseudo_perplexity": "pseudo-perplexity of a token",
    "accuracy_top_1": "true token the likeliest",
    "accuracy_top_5": "  among the five likeliest",
    "accuracy_top_10": "  among the ten likeliest",
    "calibration_error": "calibration error",
    "headers_parsed": "completed functions that parse",
    "ngram_headers_parsed": f"  {NGRAM_ORDER}-grams of the training tokens",
    "headers": "function headers completed",
    "evaluated_documents": "documents",
    "evaluated_bytes": "bytes",
    "evaluated_tokens": "tokens",
    "context": "tokens of context",
}
"""What each figure is called in the table, in its order."""

OWN_EXAMPLES = 600
"""Labelled texts by which masking and the prompt filter are measured, where no number is asked for."""

SHARES = frozenset(
    {"headers_parsed", "ngram_headers_parsed", "accuracy_top_1", "accuracy_top_5", "accuracy_top_10"}
)


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        figures: flat names and numbers, as in summary.json; of tasks ``TASK/METRIC``.
        held_out: of held-out documents, where there were any.
        tasks: each task scored.
    """

    figures: dict[str, float]
    held_out: HeldOut | None = None
    tasks: list[Scored] = field(default_factory=list)

    @property
    def likelihood(self) -> Likelihood:
        """The score of each document."""
        assert self.held_out is not None, "no documents were scored"
        return self.held_out.likelihood

    @property
    def completed_headers(self) -> list[HeaderResult]:
        """The model's completions of function headers, if asked for."""
        return self.held_out.headers if self.held_out is not None else []


def evaluate(settings: Evaluate, progress: Progress | None = None) -> Evaluation:
    """Measure a model on documents and tasks, print tables, and write a folder where ``output`` names one.

    Args:
        settings: the verb's settings.
        progress: the display of a verb that this one is a part of; the closing tables are then its own.

    Raises:
        ConfigError: the settings ask for what cannot be.
        CodexRayError: there is nothing to measure, or a model, corpus or task is missing or damaged.
        Interrupted: Ctrl-C; answers that were there are kept, and the same command goes on with them.
    """
    refuse_measurement(settings)
    if settings.baselines and settings.corpus is not None and settings.split == "train":
        raise ConfigError(
            "baselines know the train split by heart; give split=validation or split=test with them"
        )
    try:
        with open_progress(progress, settings.track.progress) as shown:
            return _evaluate(settings, shown, closing=progress is None)
    except KeyboardInterrupt:
        raise Interrupted("the evaluation was stopped; run the same command again and it continues") from None


def _evaluate(settings: Evaluate, shown: Progress, *, closing: bool) -> Evaluation:
    began = time.monotonic()
    tasks, harness = load_tasks(settings), of_harness(settings.tasks)
    local = settings.model is not None and settings.endpoint.url is None
    if local:
        settings = replace(settings, compute=settled(settings.compute, settings.spread))
    documents = measured_documents(settings) if local and (settings.corpus or settings.files) else []
    masked = local and settings.model is not None and is_masked(settings.model, settings.revision)
    loaded: tuple[Any, Tokenizer] | None = None
    if (documents or harness or (local and tasks and not settings.spread.actors)) and not masked:
        assert settings.model is not None
        with shown.stage("load the model"):
            loaded = load_with_tokenizer(settings.model, settings.revision, settings.compute)
    held_out: HeldOut | None = None
    if masked:
        held_out = measure_masked(settings, documents, shown)
    elif documents and loaded:
        held_out = measure_documents(settings, *loaded, documents, shown)
    here = None if settings.spread.actors else loaded
    scored, records, identity = _tasks(settings, tasks, here, shown)
    for record in records:
        if said := silence(record):
            shown.note(f"{record.name}: {said}")
    theirs = _harness(settings, harness, loaded, shown) if harness and loaded else {}
    own = _own(settings)
    figures = (held_out.figures if held_out else {}) | flat_figures(records) | theirs
    for (task, name), found in own.items():
        ends = {"": found.value, "_low": found.low, "_high": found.high}
        figures |= {f"{task}/{name}{end}": value for end, value in ends.items()}
    evaluation = Evaluation(figures, held_out, scored)
    if settings.output is not None:
        with shown.stage("write the report"):
            _write(settings, evaluation, records, identity, time.monotonic() - began)
    if closing:
        if held_out is not None:
            shown.table(_title(settings), table_rows(figures))
        if records:
            title = f"{settings.model or settings.predictions}: tasks"
            shown.table(title, _task_rows(records), _TASK_COLUMNS)
        if own:
            shown.table("codex_ray itself", _own_rows(own), _TASK_COLUMNS)
        if theirs:
            shown.table(f"{settings.model}: lm-evaluation-harness", list(theirs.items()))
    return evaluation


def _own(settings: Evaluate) -> dict[tuple[str, str], Interval]:
    """Measure what needs no model; returns figures by task and name."""
    measures = {"redaction": measure_redaction, "prompt_filter": measure_prompt_filter}
    found = {}
    for task in OWN:
        if task in settings.tasks:
            count = settings.max_examples or OWN_EXAMPLES
            for name, interval in measures[task](count, settings.seed, settings.bootstrap).items():
                found[task, name] = interval
    return found


def _own_rows(own: Mapping[tuple[str, str], Interval]) -> list[tuple[str, str, str, str, str]]:
    return [
        (task, name, f"{found.value:.1%}", f"{found.low:.1%} to {found.high:.1%}", str(found.examples))
        for (task, name), found in own.items()
    ]


def _tasks(
    settings: Evaluate, tasks: list[Task], loaded: tuple[Any, Tokenizer] | None, shown: Progress
) -> tuple[list[Scored], list[TaskRecord], str]:
    if not tasks:
        return [], [], ""
    scored, answers, identity = run_tasks(settings, tasks, loaded, shown)
    return scored, [record_of(*both) for both in zip(scored, answers, strict=True)], identity


def _harness(
    settings: Evaluate, names: list[str], loaded: tuple[Any, Tokenizer], shown: Progress
) -> dict[str, float]:
    from codex_ray.evaluate.harness import CodexRayLM, run_harness

    assert settings.model is not None
    lm = CodexRayLM(settings.model, settings.batch_rows, revision=settings.revision, loaded=loaded)
    with shown.stage("lm-evaluation-harness"):
        return run_harness(
            names,
            lm,
            include=settings.harness.include,
            shots=settings.harness.shots,
            limit=settings.max_examples,
            seed=settings.seed,
        )


def table_rows(figures: dict[str, float]) -> list[tuple[str, float | str]]:
    """Return the figures as rows of the closing table: what they are called, and their values."""
    rows: list[tuple[str, float | str]] = [
        (label, f"{figures[name]:.1%}" if name in SHARES else figures[name])
        for name, label in LABELS.items()
        if name in figures
    ]
    ending = "/bits_per_byte"
    names = [name for name in figures if name.startswith("source/") and name.endswith(ending)]
    return rows + [
        (f"bits per byte of {name.removeprefix('source/').removesuffix(ending)}", figures[name])
        for name in names
    ]


_TASK_COLUMNS = ("task", "metric", "value", "interval", "examples")


def _task_rows(records: list[TaskRecord]) -> list[tuple[str, str, str, str, str]]:
    rows = []
    for record in records:
        for name, found in record.figures.items():
            if name == EMPTY and not found["value"]:
                continue
            value, low, high = (_shown(name, found[key]) for key in ("value", "low", "high"))
            rows.append((record.name, name, value, f"{low} to {high}", str(found["examples"])))
    return rows


def _shown(metric: str, value: float) -> str:
    return f"{value:.1%}" if is_share(metric) else figure(value)


def _title(settings: Evaluate) -> str:
    what = (
        f"{settings.split} documents of {settings.corpus}" if settings.corpus else ", ".join(settings.files)
    )
    return f"{settings.model} on the {what}"


def _write(
    settings: Evaluate, evaluation: Evaluation, records: list[TaskRecord], identity: str, seconds: float
) -> None:
    """Write the folder of a run: settings, environment, every document's and example's score, report."""
    assert settings.output is not None
    folder = Path(settings.output).expanduser()
    mlflow = MlflowRun(folder, settings.track.mlflow, runs=folder.parent)
    saved.save(settings, folder / "config.yaml")
    write_environment(folder, to_dict(settings), mlflow_uri=mlflow.uri)
    if evaluation.held_out is not None:
        if evaluation.likelihood.tally is not None:
            write_json(folder / "calibration.json", evaluation.likelihood.tally.bins())
        write_lines(folder / "documents.jsonl", (asdict(score) for score in evaluation.likelihood.documents))
    if evaluation.completed_headers:
        write_lines(folder / "headers.jsonl", map(_header_line, evaluation.completed_headers))
    write_json(folder / "summary.json", evaluation.figures)
    if records:
        model = {"name": settings.model, "digest": identity, "predictions": settings.predictions}
        write_tasks(folder, records, model | {"seconds": seconds})
    if settings.track.report:
        write_page(folder, records)
    mlflow.start(folder.name, parameters=to_dict(settings), life_id=_life(settings))
    mlflow.log_rows([{"step": 0, **evaluation.figures}])
    for name in ("report.html", "results.csv", "evaluation.json"):
        mlflow.log_artifact(folder / name)
    mlflow.end()


def _life(settings: Evaluate) -> str | None:
    """Return the life that an evaluation belongs to: the model's, or else that of the corpus it reads."""
    found = life_of(settings.model) if settings.model is not None else None
    if found is None and settings.corpus is not None:
        found = Manifest.load(settings.corpus).life_id
    return found


def _header_line(done: HeaderResult) -> dict[str, Any]:
    return {
        "document": done.header.document,
        "header": done.header.line,
        "completion": done.completion,
        "parsed": done.parsed,
    }
