"""The ``evaluate`` verb: bits per byte and perplexity of held-out text, beside baselines if asked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codex_ray.config import saved
from codex_ray.config.evaluate import Evaluate
from codex_ray.config.fields import to_dict
from codex_ray.corpus.manifest import Manifest
from codex_ray.errors import ConfigError
from codex_ray.evaluate.baselines import NGRAM_ORDER, measure_baselines
from codex_ray.evaluate.documents import measured_documents
from codex_ray.evaluate.headers import Header, HeaderResult, complete_with_model, find_headers, share_parsed
from codex_ray.evaluate.likelihood import Likelihood, score_documents
from codex_ray.files import write_json, write_text
from codex_ray.rollout.load import load_with_tokenizer
from codex_ray.rollout.sampler import max_positions
from codex_ray.track import MlflowRun, Progress, open_progress, write_environment, write_report

if TYPE_CHECKING:
    from codex_ray.corpus.documents import Document
    from codex_ray.tokenizer import Tokenizer

LONGEST_CONTEXT = 2048
"""Tokens of context where neither the settings nor the model name fewer: a model made for a hundred thousand
positions would otherwise need the memory for them."""

LABELS = {
    "bits_per_byte": "bits per byte",
    "gzip_bits_per_byte": "  gzip -9, file by file",
    "xz_bits_per_byte": "  xz -9, file by file",
    "xz_primed_bits_per_byte": "  xz -9 after the training text",
    "ngram_bits_per_byte": f"  {NGRAM_ORDER}-grams of the training tokens",
    "perplexity": "perplexity of a token",
    "headers_parsed": "completed functions that parse",
    "ngram_headers_parsed": f"  {NGRAM_ORDER}-grams of the training tokens",
    "headers": "function headers completed",
    "evaluated_documents": "documents",
    "evaluated_bytes": "bytes",
    "evaluated_tokens": "tokens",
    "context": "tokens of context",
}
"""What each figure is called in the table, in its order."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        figures: flat names and numbers, as in summary.json.
        likelihood: the score of each document.
        completed_headers: the model's completions of function headers, if asked for.
    """

    figures: dict[str, float]
    likelihood: Likelihood
    completed_headers: list[HeaderResult] = field(default_factory=list)


def evaluate(settings: Evaluate, progress: Progress | None = None) -> Evaluation:
    """Measure a model on documents, print a table, and write a folder where ``output`` names one.

    Args:
        settings: the verb's settings.
        progress: the display of a verb that this one is a part of; the closing table is then its own.

    Raises:
        ConfigError: the settings ask for what cannot be.
        CodexRayError: there is nothing to measure, or a model or corpus is missing or damaged.
    """
    if settings.baselines and settings.corpus is not None and settings.split == "train":
        raise ConfigError(
            "baselines know the train split by heart; give split=validation or split=test with them"
        )
    with open_progress(progress, settings.track.progress) as shown:
        documents = measured_documents(settings)
        with shown.stage("load the model"):
            model, tokenizer = load_with_tokenizer(settings.model, settings.revision, settings.compute)
        context = _context(settings, model)
        likelihood = _score(settings, model, tokenizer, documents, context, shown)
        figures = {
            "bits_per_byte": likelihood.bits_per_byte,
            "perplexity": likelihood.perplexity,
            "evaluated_documents": len(likelihood.documents),
            "evaluated_bytes": likelihood.bytes,
            "evaluated_tokens": likelihood.tokens,
            "context": context,
        }
        headers = _headers(settings, documents, shown)
        completed: list[HeaderResult] = []
        if headers:
            with shown.stage("complete function headers"):
                completed = complete_with_model(
                    model, tokenizer, headers, seed=settings.seed, batch_rows=settings.batch_rows
                )
            figures |= {"headers": len(completed), "headers_parsed": share_parsed(completed)}
        if settings.baselines:
            figures |= measure_baselines(
                documents, corpus=settings.corpus, headers=headers, seed=settings.seed, progress=shown
            )
        evaluation = Evaluation(figures, likelihood, completed)
        if settings.output is not None:
            with shown.stage("write the report"):
                _write(settings, evaluation, Path(settings.output).expanduser())
        if progress is None:
            shown.table(_title(settings), table_rows(figures))
    return evaluation


def table_rows(figures: dict[str, float]) -> list[tuple[str, float | str]]:
    """Return the figures as rows of the closing table: what they are called, and their values."""
    shares = ("headers_parsed", "ngram_headers_parsed")
    return [
        (label, f"{figures[name]:.1%}" if name in shares else figures[name])
        for name, label in LABELS.items()
        if name in figures
    ]


def _title(settings: Evaluate) -> str:
    what = (
        f"{settings.split} documents of {settings.corpus}" if settings.corpus else ", ".join(settings.files)
    )
    return f"{settings.model} on the {what}"


def _context(settings: Evaluate, model: Any) -> int:
    longest = max_positions(model)
    if settings.context is None:
        return min(longest or LONGEST_CONTEXT, LONGEST_CONTEXT)
    if longest is not None and settings.context > longest:
        raise ConfigError(
            f"context={settings.context} is more than the {longest} positions of the model; "
            f"give {longest} or fewer"
        )
    return settings.context


def _score(
    settings: Evaluate,
    model: Any,
    tokenizer: Tokenizer,
    documents: Sequence[Document],
    context: int,
    shown: Progress,
) -> Likelihood:
    size = sum(len(document.text.encode()) for document in documents)
    with shown.stage("score the documents", total=size, unit="bytes"):
        return score_documents(
            model,
            tokenizer,
            documents,
            context=context,
            stride_share=settings.stride_share,
            batch_rows=settings.batch_rows,
            on_progress=shown.advance,
        )


def _headers(settings: Evaluate, documents: Sequence[Document], shown: Progress) -> list[Header]:
    headers = find_headers(documents, settings.headers, settings.seed)
    if len(headers) < settings.headers:
        shown.note(f"these documents have {len(headers)} one-line function headers, not {settings.headers}")
    return headers


def _write(settings: Evaluate, evaluation: Evaluation, folder: Path) -> None:
    """Write the folder of a run: settings, environment, every document's score, summary and report."""
    mlflow = MlflowRun(folder, settings.track.mlflow, runs=folder.parent)
    saved.save(settings, folder / "config.yaml")
    write_environment(folder, to_dict(settings), mlflow_uri=mlflow.uri)
    _write_lines(folder / "documents.jsonl", (asdict(score) for score in evaluation.likelihood.documents))
    if evaluation.completed_headers:
        _write_lines(
            folder / "headers.jsonl",
            (
                {
                    "document": done.header.document,
                    "header": done.header.line,
                    "completion": done.completion,
                    "parsed": done.parsed,
                }
                for done in evaluation.completed_headers
            ),
        )
    write_json(folder / "summary.json", evaluation.figures)
    if settings.track.report:
        write_report(folder)
    life_id = Manifest.load(settings.corpus).life_id if settings.corpus is not None else None
    mlflow.start(folder.name, parameters=to_dict(settings), life_id=life_id)
    mlflow.log_rows([{"step": 0, **evaluation.figures}])
    mlflow.log_artifact(folder / "report.html")
    mlflow.end()


def _write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
