"""Continuations of contexts, of which each context is read once (:mod:`codex_ray.model.branches`).

Tensor names end in their shape: B rows, T longest row, K last positions, V vocabulary, N scored tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codex_ray.evaluate.likelihood import LOGITS_PER_BATCH, WindowScore
from codex_ray.model.branches import NOTHING, SHARED, branch_mask
from codex_ray.rollout.cached import inference


@dataclass(frozen=True)
class Question:
    """A context and what may follow it; token ids, at least one each."""

    context: Sequence[int]
    continuations: Sequence[Sequence[int]]

    @property
    def kept(self) -> int:
        """Positions that predict something: the context's last, and all of continuations but their last."""
        return 1 + sum(len(ids) - 1 for ids in self.continuations)

    @property
    def length(self) -> int:
        """Tokens that are read."""
        return len(self.context) + self.kept - 1


def score_questions(model: Any, questions: Sequence[Question], *, batch_rows: int) -> list[list[WindowScore]]:
    """Score the continuations of each question after its context.

    Args:
        model: a Transformers causal language model that :func:`codex_ray.model.branches.may_branch` allows.
        questions: of which each context fits the model with each continuation.
        batch_rows: continuations computed together, where a question has no more.
    """
    found: list[list[WindowScore]] = [[] for _ in questions]
    vocabulary = model.config.get_text_config().vocab_size
    with inference(model):
        for batch in _batches(questions, batch_rows, vocabulary):
            for number, scores in zip(batch, _score(model, [questions[one] for one in batch]), strict=True):
                found[number] = scores
    return found


def _batches(questions: Sequence[Question], batch_rows: int, vocabulary: int) -> Iterator[list[int]]:
    """Cut questions, the longest first, into passes."""
    batch: list[int] = []
    rows = kept = 0
    for number in sorted(range(len(questions)), key=lambda one: questions[one].length, reverse=True):
        question = questions[number]
        more, most = rows + len(question.continuations), max(kept, question.kept)
        if batch and (more > batch_rows or (len(batch) + 1) * most * vocabulary > LOGITS_PER_BATCH):
            yield batch
            batch, more, most = [], len(question.continuations), question.kept
        batch.append(number)
        rows, kept = more, most
    if batch:
        yield batch


def _score(model: Any, questions: Sequence[Question]) -> list[list[WindowScore]]:
    device = next(model.parameters()).device
    longest, kept = max(one.length for one in questions), max(one.kept for one in questions)
    ids, positions, parts = [], [], []
    rows: list[int] = []
    places: list[int] = []
    targets: list[int] = []
    for row, question in enumerate(questions):
        read = list(question.context)
        place, part = list(range(len(read))), [SHARED] * len(read)
        blank = longest - question.length
        for number, continuation in enumerate(question.continuations, start=1):
            more = range(len(continuation) - 1)
            begin = kept - longest + blank + len(read)
            rows += [row] * len(continuation)
            places += [kept - question.kept, *(begin + step for step in more)]
            targets += continuation
            read += continuation[:-1]
            place += [len(question.context) + step for step in more]
            part += [number] * len(more)
        ids.append([0] * blank + read)
        positions.append([0] * blank + place)
        parts.append([NOTHING] * blank + part)
    logits_BKV = model(
        input_ids=torch.tensor(ids, device=device),
        attention_mask=_mask(model, torch.tensor(parts, device=device)),
        position_ids=torch.tensor(positions, device=device),
        use_cache=False,
        logits_to_keep=kept,
    ).logits
    logits_NV = logits_BKV[rows, places].float()
    true_N = torch.tensor(targets, device=device)
    lost_N = logits_NV.logsumexp(dim=-1) - logits_NV.gather(-1, true_N[:, None]).squeeze(-1)
    greedy_N = logits_NV.argmax(dim=-1) == true_N
    sizes = [len(ids) for question in questions for ids in question.continuations]
    nats = [float(part.sum()) for part in lost_N.double().cpu().split(sizes)]
    greedy = [bool(part.all()) for part in greedy_N.cpu().split(sizes)]
    scores = map(WindowScore, nats, greedy)
    return [[next(scores) for _ in question.continuations] for question in questions]


def _mask(model: Any, part_BT: Tensor) -> Tensor:
    """Return the mask as the model's attention takes it: eager attention adds it to the scores."""
    seen_B1TT = branch_mask(part_BT)
    if model.config.get_text_config()._attn_implementation != "eager":
        return seen_B1TT
    dtype = model.get_input_embeddings().weight.dtype
    blocked_B1TT = torch.zeros(seen_B1TT.shape, dtype=dtype, device=part_BT.device)
    return blocked_B1TT.masked_fill(~seen_B1TT, torch.finfo(dtype).min)


def fits(question: Question, vocabulary: int) -> bool:
    """Whether the logits of a question may be held together."""
    return question.kept * vocabulary <= LOGITS_PER_BATCH
