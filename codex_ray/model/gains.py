"""Watching the mixers: does their product keep signals and gradients at their size?

Shape legend: B batch, S sequence, N streams, D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from codex_ray.model.hyper_connections import Mixer


def mixing_gains(model: nn.Module, input_ids: Tensor, position_ids: Tensor | None = None) -> dict[str, float]:
    """Measure the composite of all mixing matrices on one batch (mHC section 3.1, "Amax gain").

    Args:
        model: a language model; one that mixes no streams gives an empty result.
        input_ids: token ids, [B, S].
        position_ids: positions that begin again with each document of a row; unset is one text per row.

    Returns:
        ``row_gain`` and ``column_gain``: the largest absolute row sum (forward gain) and column
        sum (backward gain) of the product over all sublayers, averaged over tokens: one for doubly
        stochastic matrices. ``diagonal``: mean diagonal of single matrices; one is no mixing.
        ``stream_spread``: ratio of the largest to the smallest stream norm at the end, averaged
        over tokens; one means that streams are equally strong.
    """
    matrices, last_BSND = mixing_matrices(model, input_ids, position_ids)
    if last_BSND is None:
        return {}
    composite = matrices[0]
    for matrix in matrices[1:]:
        composite = matrix @ composite
    diagonals = [matrix.diagonal(dim1=-2, dim2=-1).mean() for matrix in matrices]
    norms_BSN = last_BSND.float().norm(dim=-1)
    spread = norms_BSN.amax(-1) / norms_BSN.amin(-1).clamp(min=torch.finfo(torch.float32).tiny)
    return {
        "row_gain": composite.sum(-1).abs().amax(-1).mean().item(),
        "column_gain": composite.sum(-2).abs().amax(-1).mean().item(),
        "diagonal": torch.stack(diagonals).mean().item(),
        "stream_spread": spread.mean().item(),
    }


def mixing_matrices(
    model: nn.Module, input_ids: Tensor, position_ids: Tensor | None = None
) -> tuple[list[Tensor], Tensor | None]:
    """Run a batch and return every sublayer's mixing matrices, and the streams before the last.

    Args:
        model: a language model.
        input_ids: token ids, [B, S].
        position_ids: as for :func:`mixing_gains`.

    Returns:
        Matrices [B*S, N, N], or one identity [N, N] where nothing is mixed, in order; and streams
        [B, S, N, D]. No matrices and None for a model without mixers.
    """
    mixers = [module for module in model.modules() if isinstance(module, Mixer)]
    recorded: list[Tensor] = []
    last: list[Tensor] = []

    def record(_: nn.Module, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        recorded.append(output[1][..., :-1])
        last[:] = [inputs[0]]

    if not mixers:
        return [], None
    handles = [mixer.register_forward_hook(record) for mixer in mixers]
    try:
        with torch.no_grad():
            model(input_ids=input_ids, position_ids=position_ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    identity = torch.eye(mixers[0].rule.streams, device=input_ids.device)
    return [matrix if matrix.shape[-1] else identity for matrix in recorded], last[0]
