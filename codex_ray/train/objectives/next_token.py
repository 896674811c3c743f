"""Next-token prediction: the mean negative log-likelihood of every token given those before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from codex_ray.model import IGNORED, next_token_loss_sum
from codex_ray.train.documents import Documents


class NextToken:
    """The objective of pretraining.

    Rows hold S tokens, of which the last S-1 are predicted; padding is not, and with documents kept
    apart, nor is the first token of each.

    Args:
        documents: what the rows' documents are to this run; None is rows of text and nothing else.
    """

    def __init__(self, documents: Documents | None = None) -> None:
        self._documents = documents

    @property
    def even(self) -> bool:
        """Whether every row has as many targets as any other."""
        return self._documents is None

    def weight(self, input_ids_BS: Tensor) -> int:
        """Number of predicted tokens in a batch; the global loss is divided by all ranks' sum."""
        if self._documents is None:
            rows, length = input_ids_BS.shape
            return rows * (length - 1)
        return int((self._documents.labels(input_ids_BS) != IGNORED).sum())

    def loss(self, forward: Callable[..., Any], input_ids_BS: Tensor, total_weight: int) -> Tensor:
        """Return this batch's share of the global mean loss, in nats.

        Args:
            forward: the model's forward, as the engine wants it called.
            input_ids_BS: token ids, int64.
            total_weight: predicted tokens in the whole global batch, over all workers.
        """
        documents = self._documents
        labels = documents.labels(input_ids_BS) if documents else None
        positions = documents.positions(input_ids_BS) if documents else None
        return next_token_loss_sum(forward, input_ids_BS, labels, positions) / total_weight
