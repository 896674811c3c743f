"""The loss of next-token training, without logits of the whole batch in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .operations import IGNORED


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


def stretch_loss_sum(
    model: Callable[..., Any], input_ids_BS: Tensor, labels_BS: Tensor | None, part: int, of: int
) -> Tensor:
    """As :func:`next_token_loss_sum`, of one of ``of`` equal stretches of rows; they add up to the whole.

    Args:
        model: the model, whose attention is shared with those that take the other stretches.
        input_ids_BS: token ids of whole rows.
        labels_BS: as for :func:`next_token_loss_sum`.
        part: which stretch, from 0.
    """
    labels = input_ids_BS if labels_BS is None else labels_BS
    targets = functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    positions = torch.arange(input_ids_BS.shape[1], device=input_ids_BS.device).expand_as(input_ids_BS)
    mine = slice(part * input_ids_BS.shape[1] // of, (part + 1) * input_ids_BS.shape[1] // of)
    output = model(
        input_ids=input_ids_BS[:, mine].contiguous(),
        shift_labels=targets[:, mine].contiguous(),
        position_ids=positions[:, mine].contiguous(),
        num_items_in_batch=1,
        return_logits=False,
        use_cache=False,
    )
    loss: Tensor = output.loss
    return loss
