"""The loss of next-token training, without logits of the whole batch in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def next_token_loss_sum(
    model: Callable[..., Any],
    input_ids_BS: Tensor,
    labels_BS: Tensor | None = None,
    position_ids_BS: Tensor | None = None,
) -> Tensor:
    """Return the summed negative log-likelihood, in nats, of every token given those before it.

    Args:
        model: the model, or the engine that wraps it.
        input_ids_BS: token ids; the S-1 last of each row are predicted.
        labels_BS: the ids again, with -100 in place of those that are not counted; unset counts all.
        position_ids_BS: positions that begin again with each document of a row, which is then kept
            apart from the others; unset is one text per row.
    """
    output = model(
        input_ids=input_ids_BS,
        labels=input_ids_BS if labels_BS is None else labels_BS,
        position_ids=position_ids_BS,
        num_items_in_batch=1,
        return_logits=False,
        use_cache=False,
    )
    loss: Tensor = output.loss
    return loss
