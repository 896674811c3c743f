"""Next-token prediction: the mean negative log-likelihood of every token given those before it."""

from __future__ import annotations

from torch import Tensor

from codex_ray.model import IGNORED, next_token_loss_sum, stretch_loss_sum
from codex_ray.train.documents import Rows
from codex_ray.train.objectives.objective import Forward, Objective


class NextToken(Objective[Tensor]):
    """The objective of pretraining, and of supervised fine-tuning, whose rows say what their targets are.

    Rows hold S tokens, of which the last S-1 are predicted; padding is not, and with documents kept
    apart, nor is the first token of each.

    Args:
        documents: what the rows' documents are to this run; None is rows of text and nothing else.
        shared_by: ranks that hold the same rows and compute a stretch of each.
        part: which stretch is this rank's, from 0.
    """

    per_token = True

    def __init__(self, documents: Rows | None = None, *, shared_by: int = 1, part: int = 0) -> None:
        super().__init__()
        self._documents = documents
        self.shared_by, self._part = shared_by, part
        self.even = documents is None  # then every row has as many targets as any other

    def weight(self, input_ids_BS: Tensor) -> int:
        """Number of predicted tokens in rows; the global loss is divided by the sum over all rows."""
        if self._documents is None:
            rows, length = input_ids_BS.shape
            return rows * (length - 1)
        return int((self._documents.labels(input_ids_BS) != IGNORED).sum())

    def loss(self, forward: Forward, input_ids_BS: Tensor, total_weight: int) -> Tensor:
        """Return this batch's share of the global mean loss, in nats.

        Args:
            forward: the model's forward, as the engine wants it called.
            input_ids_BS: rows, int64: token ids, or marked ones.
            total_weight: predicted tokens in the whole global batch, over all workers.
        """
        documents = self._documents
        labels = documents.labels(input_ids_BS) if documents else None
        positions = documents.positions(input_ids_BS) if documents else None
        input_ids_BS = documents.ids(input_ids_BS) if documents else input_ids_BS
        if self.shared_by > 1:
            return stretch_loss_sum(forward, input_ids_BS, labels, self._part, self.shared_by) / total_weight
        return next_token_loss_sum(forward, input_ids_BS, labels, positions) / total_weight
