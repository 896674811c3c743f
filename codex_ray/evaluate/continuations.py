"""Several continuations of one context, whose keys and values are computed once.

Tensor names end in their shape: C continuations, K longest of them, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from codex_ray.evaluate.likelihood import LOGITS_PER_BATCH, WindowScore, score_row


@torch.no_grad()
def score_after(
    model: Any, context: Sequence[int], continuations: Sequence[Sequence[int]]
) -> list[WindowScore] | None:
    """Score each continuation after the context; None where the model's cache cannot be repeated.

    Args:
        model: a Transformers causal language model.
        context: token ids, at least one.
        continuations: token ids, at least one each; with the context they fit the model.
    """
    device = next(model.parameters()).device
    count, longest = len(continuations), max(map(len, continuations))
    read = model(input_ids=torch.tensor([context], device=device), use_cache=True, logits_to_keep=1)
    first_1V = read.logits[:, -1]
    inputs_CK = torch.zeros(count, longest - 1, dtype=torch.int64)
    targets_CK = torch.full((count, longest), -1, dtype=torch.int64)
    for row, ids in enumerate(continuations):
        inputs_CK[row, : len(ids) - 1] = torch.tensor(ids[:-1])
        targets_CK[row, : len(ids)] = torch.tensor(ids)
    logits_CKV = first_1V.expand(count, -1).unsqueeze(1)
    if longest > 1:
        cache: Any = getattr(read, "past_key_values", None)
        if not hasattr(cache, "batch_repeat_interleave"):
            return None
        cache.batch_repeat_interleave(count)
        after = model(input_ids=inputs_CK.to(device), past_key_values=cache, use_cache=True).logits
        logits_CKV = torch.cat([logits_CKV, after], dim=1)
    rows = zip(logits_CKV, targets_CK.to(device), strict=True)
    return [score_row(logits_KV, targets_K, None) for logits_KV, targets_K in rows]


def fits(continuations: Sequence[Sequence[int]], vocabulary: int) -> bool:
    """Whether the logits of continuations may be held together."""
    return len(continuations) * max(map(len, continuations)) * vocabulary <= LOGITS_PER_BATCH
