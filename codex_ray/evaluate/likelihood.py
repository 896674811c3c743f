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
from codex_ray.evaluate.tally import Tally

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


@dataclass(frozen=True)
class WindowScore:
    """Negative log-likelihood of what a window scores, and whether greedy decoding would have written it."""

    nats: float
    greedy: bool


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
    """Scores of documents, what they come to, and counts over their tokens where a model gave them."""

    documents: list[DocumentScore]
    tally: Tally | None = None

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
    tally = Tally()
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
            tally=tally,
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
    return Likelihood(scores, tally)


def score_sequences(
    model: Any,
    sequences: Sequence[Sequence[int]],
    *,
    context: int,
    stride_share: float = 0.5,
    batch_rows: int = 32,
    on_window: Callable[[int, int], None] | None = None,
    tally: Tally | None = None,
) -> list[float]:
    """Return each sequence's negative log-likelihood in nats, given its first id.

    Arguments are those of :func:`score_documents`; ``on_window`` is told the number of a sequence and how
    many of its ids were scored, ``tally`` counts the tokens.
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
    nats = [0.0] * len(sequences)

    def add(number: int, score: WindowScore) -> None:
        owner, window = jobs[number]
        nats[owner] += score.nats
        if on_window is not None:
            on_window(owner, window.scored)

    chunks = [(sequences[owner], window) for owner, window in jobs]
    score_windows(model, chunks, batch_rows=batch_rows, on_score=add, tally=tally)
    return nats


def score_windows(
    model: Any,
    chunks: Sequence[tuple[Sequence[int], Window]],
    *,
    batch_rows: int,
    on_score: Callable[[int, WindowScore], None],
    tally: Tally | None = None,
) -> None:
    """Score windows of sequences, the longest first; ``on_score`` is told each one's number and score.

    Only the logits of positions that are scored, and of those between them, are computed.
    """
    order = sorted(
        range(len(chunks)),
        key=lambda number: (chunks[number][1].stop - chunks[number][1].start, chunks[number][1].scored),
        reverse=True,
    )
    model.eval()
    with torch.no_grad():
        for batch in _batches(order, chunks, batch_rows, model.config.get_text_config().vocab_size):
            scores = _score_batch(model, [chunks[number] for number in batch], tally)
            for number, score in zip(batch, scores, strict=True):
                on_score(number, score)


def _batches(
    order: Sequence[int], chunks: Sequence[tuple[Sequence[int], Window]], batch_rows: int, vocabulary: int
) -> Iterator[list[int]]:
    """Cut sorted windows into passes of at most ``batch_rows`` rows and ``LOGITS_PER_BATCH`` logits."""
    batch: list[int] = []
    for number in order:
        rows = len(batch) + 1
        kept = _kept_positions([chunks[one][1] for one in [*batch, number]])
        if batch and (rows > batch_rows or rows * kept * vocabulary > LOGITS_PER_BATCH):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _kept_positions(batch: Sequence[Window]) -> int:
    """Positions from the end of the longest window back to the earliest one scored."""
    longest = max(window.stop - window.start for window in batch)
    return longest - min(window.first - 1 - window.start for window in batch)


def _score_batch(
    model: Any, batch: Sequence[tuple[Sequence[int], Window]], tally: Tally | None
) -> list[WindowScore]:
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
    return [
        score_row(logits_KV, targets_K, tally)
        for logits_KV, targets_K in zip(logits_BKV, targets_BK, strict=True)
    ]


def score_row(logits_KV: Tensor, targets_K: Tensor, tally: Tally | None) -> WindowScore:
    """Score a row's targets, in float32 a row at a time; -1 marks what is not scored."""
    wanted_K = targets_K >= 0
    scores_KV, true_K = logits_KV[wanted_K].float(), targets_K[wanted_K]
    total_K = scores_KV.logsumexp(dim=-1)
    if tally is not None:
        tally.add(scores_KV, true_K, total_K)
    chosen_K = scores_KV.gather(-1, true_K[:, None]).squeeze(-1)
    greedy = bool((scores_KV.argmax(dim=-1) == true_K).all())
    return WindowScore(float((total_K - chosen_K).double().sum()), greedy)
