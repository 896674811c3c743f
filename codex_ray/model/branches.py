"""One row in which several continuations stand behind a shared beginning, none of which sees another::

    tokens      c c c  a a  b b b
    positions   0 1 2  3 4  3 4 5

Each has the positions that it would have by itself, and a mask keeps them apart, so that what all begin with
is computed once. Shape legend: B rows, T tokens of a row.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

SHARED, NOTHING = 0, -1  # parts of a row: what all continuations begin with, and padding; others count from 1


def may_branch(model: Any) -> bool:
    """Whether a model lets a mask and positions say what follows what: plain attention, known positions."""
    text = model.config.get_text_config()
    plain = all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
    given = "position_ids" in inspect.signature(model.forward).parameters
    masked = getattr(text, "_attn_implementation", None) in ("sdpa", "eager")
    return plain and given and masked and not getattr(text, "alibi", False)


def branch_mask(part_BT: Tensor) -> Tensor:
    """Return which tokens see which, [B, 1, T, T], in rows whose tokens are of these parts.

    A token sees what is shared and its own part, up to itself.
    """
    place_T = torch.arange(part_BT.shape[1], device=part_BT.device)
    seen_part_B1T, own_part_BT1 = part_BT[:, None, :], part_BT[:, :, None]
    seen_BTT = (seen_part_B1T == SHARED) | ((seen_part_B1T == own_part_BT1) & (own_part_BT1 >= SHARED))
    seen_BTT = (seen_BTT & (place_T <= place_T[:, None])) | (place_T == place_T[:, None])
    return seen_BTT[:, None]
