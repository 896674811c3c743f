"""Bits per byte and perplexity of documents under a causal language model.

A document is scored as its tokens after one beginning-of-text token; its end is not scored. Documents longer
than the context are read in overlapping windows: each token is scored once, and all but the first window's
tokens with at least ``1 - stride_share`` of the context before them.

Tensor names end in their shape: B windows, T longest window, K scored positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from codex_ray.errors import CodexRayError, ConfigError

if TYPE_CHECKING:
    from codex_ray.corpus.documents import Document
    from codex_ray.tokenizer import Tokenizer

LOGITS_PER_BATCH = 2**27
"""Most logits a forward pass may give: half a gigabyte in float32."""

DOCUMENTS_AT_ONCE = 1024
"""Documents whose windows are sorted by length together; it bounds memory on any corpus."""


@dataclass(frozen=True)
class Window:
    """A forward pass over ``ids[start:stop]`` that scores the ids from ``first`` to ``stop`` inclusive.

    The model reads position ``i`` and is scored on its prediction of ``ids[i + 1]``.
    """

    start: int
    stop: int
    first: int

    @property
    def scored(self) -> int:
        """Number of predictions that count."""
        return self.stop + 1 - self.first


def windows(length: int, context: int, stride: int) -> list[Window]:
    """Cover the predictions of ``ids[1:length]``, each exactly once.

    Args:
        length: ids in the sequence, the first-context token included.
        context: most ids the model reads at a time.
        stride: ids scored by each window after the first, at most ``context``.
    """
    found: list[Window] = []
    scored = 1
    while scored < length:
        new = context if scored == 1 else stride
        stop = min(scored + new, length) - 1
        found.append(Window(max(0, stop - context), stop, scored))
        scored = stop + 1
    return found


@dataclass(frozen=True)
class DocumentScore:
    """How well one document was predicted; ``nats`` is its negative log-likelihood."""

    name: str
    nats: float
    tokens: int
    bytes: int


@dataclass(frozen=True)
class Likelihood:
    """Scores of documents, and what they come to."""

    documents: list[DocumentScore]

    @property
    def nats(self) -> float:
        """Negative log-likelihood of all documents."""
        return math.fsum(document.nats for document in self.documents)

    @property
    def tokens(self) -> int:
        """Tokens scored."""
        return sum(document.tokens for document in self.documents)

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of text scored."""
        return sum(document.bytes for document in self.documents)

    @property
    def bits_per_byte(self) -> float:
        """Bits that an ideal coder with this model spends on a byte of text."""
        return self.nats / math.log(2) / self.bytes

    @property
    def perplexity(self) -> float:
        """Exponential of the mean negative log-likelihood of a token."""
        return math.exp(min(self.nats / self.tokens, 700.0))


def score_documents(
    model: Any,
    tokenizer: Tokenizer,
    documents: Iterable[Document],
    *,
    context: int,
    stride_share: float = 0.5,
    batch_rows: int = 32,
    on_progress: Callable[[float], None] | None = None,
) -> Likelihood:
    """Score documents under a model with its own tokenizer.

    Args:
        model: a Transformers causal language model, on the device it shall use.
        tokenizer: the model's.
        documents: what to score; one of no bytes is left out.
        context: most tokens the model reads at a time.
        stride_share: new tokens per window after the first, as a share of the context.
        batch_rows: windows per forward pass.
        on_progress: told the bytes of text scored, window by window.

    Raises:
        CodexRayError: nothing to score, or a likelihood that is not finite.
    """
    first = tokenizer.special_ids["bos"]
    scores: list[DocumentScore] = []
    kept = (document for document in documents if document.text)
    while group := list(islice(kept, DOCUMENTS_AT_ONCE)):
        sequences = [[first, *ids] for ids in tokenizer.encode_batch([document.text for document in group])]
        sizes = [len(document.text.encode()) for document in group]

        def tell(owner: int, scored: int, sequences: Any = sequences, sizes: Any = sizes) -> None:
            if on_progress is not None:
                on_progress(sizes[owner] * scored / (len(sequences[owner]) - 1))

        nats = score_sequences(
            model,
            sequences,
            context=context,
            stride_share=stride_share,
            batch_rows=batch_rows,
            on_window=tell,
        )
        for document, ids, size, lost in zip(group, sequences, sizes, nats, strict=True):
            if not math.isfinite(lost):
                raise CodexRayError(
                    f"the likelihood of {document.name} is not finite; "
                    "try compute.dtype=float32, or a model from an earlier step"
                )
            scores.append(DocumentScore(document.name, lost, len(ids) - 1, size))
    if not scores:
        raise CodexRayError("there is no text to measure; every document is empty")
    return Likelihood(scores)


def score_sequences(
    model: Any,
    sequences: Sequence[Sequence[int]],
    *,
    context: int,
    stride_share: float = 0.5,
    batch_rows: int = 32,
    on_window: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Return each sequence's negative log-likelihood in nats, given its first id.

    Arguments are those of :func:`score_documents`; ``on_window`` is told the number of a sequence and how
    many of its ids were scored.
    """
    if context < 1 or not 0 < stride_share <= 1:
        raise ConfigError(
            f"context must be at least 1 and stride_share in (0, 1], not {context}, {stride_share}"
        )
    stride = max(1, round(context * stride_share))
    jobs = [
        (owner, window)
        for owner, ids in enumerate(sequences)
        for window in windows(len(ids), context, stride)
    ]
    jobs.sort(key=lambda job: (job[1].stop - job[1].start, job[1].scored), reverse=True)
    nats = [0.0] * len(sequences)
    model.eval()
    with torch.no_grad():
        for batch in _batches(jobs, batch_rows, model.config.get_text_config().vocab_size):
            chunk = [(sequences[owner], window) for owner, window in batch]
            for (owner, window), lost in zip(batch, _score_batch(model, chunk), strict=True):
                nats[owner] += lost
                if on_window is not None:
                    on_window(owner, window.scored)
    return nats


def _batches(
    jobs: list[tuple[int, Window]], batch_rows: int, vocabulary: int
) -> Iterator[list[tuple[int, Window]]]:
    """Cut sorted windows into passes of at most ``batch_rows`` rows and ``LOGITS_PER_BATCH`` logits."""
    batch: list[tuple[int, Window]] = []
    for job in jobs:
        rows = len(batch) + 1
        kept = _kept_positions([window for _, window in [*batch, job]])
        if batch and (rows > batch_rows or rows * kept * vocabulary > LOGITS_PER_BATCH):
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch


def _kept_positions(batch: Sequence[Window]) -> int:
    """Positions from the end of the longest window back to the earliest one scored."""
    longest = max(window.stop - window.start for window in batch)
    return longest - min(window.first - 1 - window.start for window in batch)


def _score_batch(model: Any, batch: Sequence[tuple[Sequence[int], Window]]) -> list[float]:
    """Score windows in one pass; shorter ones are padded on the right, where causal attention never looks."""
    device = next(model.parameters()).device
    longest = max(window.stop - window.start for _, window in batch)
    kept = _kept_positions([window for _, window in batch])
    inputs_BT = torch.zeros(len(batch), longest, dtype=torch.int64)
    targets_BT = torch.full((len(batch), longest), -1, dtype=torch.int64)
    for row, (ids, window) in enumerate(batch):
        inputs_BT[row, : window.stop - window.start] = torch.tensor(ids[window.start : window.stop])
        scored = slice(window.first - 1 - window.start, window.stop - window.start)
        targets_BT[row, scored] = torch.tensor(ids[window.first : window.stop + 1])
    logits_BKV = model(input_ids=inputs_BT.to(device), use_cache=False, logits_to_keep=kept).logits
    targets_BK = targets_BT[:, longest - kept :].to(device)
    return [_nats(logits_KV, targets_K) for logits_KV, targets_K in zip(logits_BKV, targets_BK, strict=True)]


def _nats(logits_KV: Tensor, targets_K: Tensor) -> float:
    """Negative log-likelihood of a row's targets, in float32 a row at a time; -1 marks what is not scored."""
    wanted_K = targets_K >= 0
    scores_KV = logits_KV[wanted_K].float()
    chosen_K1 = scores_KV.gather(-1, targets_K[wanted_K][:, None])
    return float((scores_KV.logsumexp(dim=-1) - chosen_K1.squeeze(-1)).double().sum())
