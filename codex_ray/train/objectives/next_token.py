"""Next-token prediction: the mean negative log-likelihood of every token given those before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from codex_ray.model import next_token_loss_sum


class NextToken:
    """The objective of pretraining. Rows hold S tokens, of which the last S-1 are predicted."""

    def weight(self, input_ids_BS: Tensor) -> int:
        """Number of predicted tokens in a batch, by which the global loss is divided."""
        rows, length = input_ids_BS.shape
        return rows * (length - 1)

    def loss(self, forward: Callable[..., Any], input_ids_BS: Tensor, total_weight: int) -> Tensor:
        """Return this batch's share of the global mean loss, in nats.

        Args:
            forward: the model's forward, as the engine wants it called.
            input_ids_BS: token ids, int64.
            total_weight: predicted tokens in the whole global batch.
        """
        return next_token_loss_sum(forward, input_ids_BS) / total_weight
