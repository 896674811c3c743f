"""Masked language models on held-out documents: pseudo-perplexity (Salazar et al. 2020, arXiv 1910.14659).

Every token is masked in a forward pass of its own and predicted from those around it. What it comes to is no
likelihood of the text, so there are no bits per byte, and only masked models compare with one another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from codex_ray.config.evaluate import Evaluate
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.evaluate.held_out import LONGEST_CONTEXT, HeldOut
from codex_ray.evaluate.likelihood import DocumentScore, Likelihood
from codex_ray.track import Progress

if TYPE_CHECKING:
    from codex_ray.corpus.documents import Document

DEFAULT_POSITIONS = 512


def is_masked(model: str, revision: str | None) -> bool:
    """Whether a model folder's configuration names a masked language model.

    Raises:
        CodexRayError: there is no such model.
    """
    from codex_ray.model.load import load_config

    named = getattr(load_config(model, revision), "architectures", None) or []
    return any(name.endswith("ForMaskedLM") for name in named)


def pieces(length: int, room: int) -> list[tuple[int, int, int, int]]:
    """Cut a sequence so that each token is scored once, with a quarter of the room or more on either side.

    Args:
        length: of the sequence; ``room``: most tokens read at a time.

    Returns:
        for each piece where it starts and stops, and where what it scores starts and stops. Only where the
        sequence itself begins or ends is there less on a side.
    """
    if length <= room:
        return [(0, length, 0, length)]
    margin = room // 4
    stride = room - 2 * margin
    found = []
    for first in range(0, length, stride):
        last = min(first + stride, length)
        start = min(max(0, first - margin), length - room)
        found.append((start, start + room, first, last))
    return found


def measure_masked(settings: Evaluate, documents: Sequence[Document], shown: Progress) -> HeldOut:
    """Score documents with a masked language model.

    Raises:
        ConfigError: what such a model cannot do is asked for.
        CodexRayError: the model or its tokenizer is damaged, or the latter has no mask token.
    """
    from codex_ray.model.masked import load_masked_model, pseudo_log_likelihood
    from codex_ray.rollout.load import tokenizer_folder
    from codex_ray.tokenizer import Tokenizer

    assert settings.model is not None
    if settings.tasks or settings.headers or settings.baselines:
        raise ConfigError(
            f"{settings.model} is a masked language model, which writes no answers and has no likelihood; "
            "leave tasks, headers and baselines out"
        )
    with shown.stage("load the model"):
        compute = settings.compute
        model = load_masked_model(
            settings.model, device=compute.device, dtype=compute.dtype, revision=settings.revision
        )
        folder = tokenizer_folder(settings.model, settings.revision)
        tokenizer = Tokenizer.load(folder)
        before, after, mask = _special_ids(folder)
    positions = getattr(model.config, "max_position_embeddings", None) or DEFAULT_POSITIONS
    room = min(settings.context or LONGEST_CONTEXT, positions) - len(before) - len(after)
    scores, size = [], sum(len(document.text.encode()) for document in documents)
    with shown.stage("mask and predict each token", total=size, unit="bytes"):
        for document in documents:
            ids = tokenizer.encode(document.text)
            lost = 0.0
            for start, stop, first, last in pieces(len(ids), room):
                row_S = torch.tensor([*before, *ids[start:stop], *after])
                counted_S = torch.zeros(len(row_S), dtype=torch.bool)
                counted_S[len(before) + first - start : len(before) + last - start] = True
                lost -= float(pseudo_log_likelihood(model, row_S, mask, counted_S).double().sum())
            scores.append(DocumentScore(document.name, lost, len(ids), len(document.text.encode())))
            shown.advance(len(document.text.encode()))
    likelihood = Likelihood(scores)
    if not math.isfinite(likelihood.nats):
        raise CodexRayError(f"what {settings.model} predicts is not finite; try compute.dtype=float32")
    figures = {
        "pseudo_perplexity": likelihood.perplexity,
        "evaluated_documents": len(scores),
        "evaluated_bytes": likelihood.bytes,
        "evaluated_tokens": likelihood.tokens,
        "context": room + len(before) + len(after),
    }
    return HeldOut(figures, likelihood, [])


def _special_ids(folder: Path) -> tuple[list[int], list[int], int]:
    """Return what stands before and after a text, and the mask token."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.mask_token_id is None:
        raise CodexRayError(
            f"the tokenizer in {folder} has no mask token; name one as mask_token in its "
            "tokenizer_config.json"
        )
    before, after = (
        [] if token is None else [token] for token in (tokenizer.cls_token_id, tokenizer.sep_token_id)
    )
    return before, after, int(tokenizer.mask_token_id)
