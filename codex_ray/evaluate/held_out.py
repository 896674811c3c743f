"""Measuring a model on held-out documents: likelihood, completed function headers, baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codex_ray.config.evaluate import Evaluate
from codex_ray.corpus.manifest import Manifest
from codex_ray.errors import ConfigError
from codex_ray.evaluate.baselines import measure_baselines
from codex_ray.evaluate.headers import Header, HeaderResult, complete_with_model, find_headers, share_parsed
from codex_ray.evaluate.likelihood import Likelihood, score_documents
from codex_ray.rollout.sampler import max_positions
from codex_ray.track import Progress

if TYPE_CHECKING:
    from codex_ray.corpus.documents import Document
    from codex_ray.tokenizer import Tokenizer

LONGEST_CONTEXT = 2048
"""Tokens of context where neither the settings nor the model name fewer: a model made for a hundred thousand
positions would otherwise need the memory for them."""


@dataclass(frozen=True)
class HeldOut:
    """What was measured on documents: flat figures, each document's score, the completed headers."""

    figures: dict[str, float]
    likelihood: Likelihood
    headers: list[HeaderResult]


def measure_documents(
    settings: Evaluate, model: Any, tokenizer: Tokenizer, documents: Sequence[Document], shown: Progress
) -> HeldOut:
    """Score documents, complete headers and measure baselines, as far as the settings ask.

    Raises:
        ConfigError: more context than the model has.
        CodexRayError: there is nothing to measure, or a corpus is missing or damaged.
    """
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
    figures |= likelihood.tally.figures() if likelihood.tally is not None else {}
    figures |= source_figures(settings, likelihood)
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
    return HeldOut(figures, likelihood, completed)


def source_figures(settings: Evaluate, likelihood: Likelihood) -> dict[str, float]:
    """Return bits per byte and perplexity of each source, where a corpus has several."""
    sources = Manifest.load(settings.corpus).sources if settings.corpus is not None else {}
    if len(sources) < 2:
        return {}
    found: dict[str, float] = {}
    for name in sources:
        documents = [one for one in likelihood.documents if one.name.startswith(f"{name}/")]
        if documents:
            part = Likelihood(documents)
            found[f"source/{name}/bits_per_byte"] = part.bits_per_byte
            found[f"source/{name}/perplexity"] = part.perplexity
            found[f"source/{name}/bytes"] = part.bytes
    return found


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
