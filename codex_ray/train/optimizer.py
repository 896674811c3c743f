"""Which parameter gets which optimizer, learning rate and decay; chosen by name and shape.

Mixers, embeddings, norms and biases go to AdamW. Biases, gates and norms are never decayed:
decaying a mixer's bias pulls it towards uniform mixing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from codex_ray.config.train import Optimizer
from codex_ray.model.parametrisation import follows_width
from codex_ray.model.roles import optimizer_role
from codex_ray.train.muon import MuonAdamW, Piece


def full_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Return a parameter's true shape; ZeRO-3 keeps it aside and leaves an empty tensor."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def build_optimizer(
    settings: Optimizer, named: Iterable[tuple[str, nn.Parameter]], dtype: torch.dtype, *, width: float = 1.0
) -> torch.optim.Optimizer:
    """Build the optimizer over trainable parameters, with one group per treatment.

    Args:
        settings: kind, rates and constants.
        named: parameters with their names.
        dtype: compute precision, which Newton–Schulz iterates in as well.
        width: the model's width over that which the rates are meant for, by which those of some parameters
            are divided (:mod:`codex_ray.model.parametrisation`).
    """
    muon = settings.kind == "muon"
    roles: dict[tuple[bool, str], list[nn.Parameter]] = {}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        shape = full_shape(parameter)
        role = optimizer_role(name, shape)
        group = "matrix" if role == "matrix" else "decayed" if len(shape) >= 2 else "kept"
        divided = width != 1.0 and follows_width(name, shape) and not (muon and group == "matrix")
        roles.setdefault((divided, group), []).append(parameter)
    groups = [
        _group(settings, kind, parameters, width if divided else 1.0)
        for divided in (False, True)
        for kind in ("matrix", "decayed", "kept")
        if (parameters := roles.get((divided, kind)))
    ]
    if not muon:
        return torch.optim.AdamW(groups, foreach=False)
    return MuonAdamW(groups, newton_schulz_steps=settings.newton_schulz_steps, newton_schulz_dtype=dtype)


def _group(settings: Optimizer, kind: str, parameters: list[nn.Parameter], divisor: float) -> dict[str, Any]:
    """Return a parameter group; a lower rate has a higher decay, so that weights shrink as fast."""
    muon = settings.kind == "muon" and kind == "matrix"
    peak = (settings.matrix_learning_rate if muon else settings.learning_rate) / divisor
    group = {
        "params": parameters,
        "weight_decay": 0.0 if kind == "kept" else settings.weight_decay * divisor,
        "betas": tuple(settings.betas),
        "eps": settings.eps,
        "peak": peak,
        "lr": peak,
    }
    return group | {"muon": True, "momentum": settings.momentum} if muon else group


def partition_layout(
    shapes: list[tuple[int, ...]], offsets: list[int], partition_size: int, world_size: int
) -> list[list[Piece]]:
    """Lay out matrices that ZeRO-1/2 concatenated and cut into equal partitions.

    Args:
        shapes: the matrices in the flat buffer's order.
        offsets: where each begins in the flat buffer.
        partition_size: elements per rank.
        world_size: ranks.

    Returns:
        ``layout[rank][matrix]``.
    """
    layout = []
    for rank in range(world_size):
        left, right = rank * partition_size, (rank + 1) * partition_size
        pieces = []
        for (rows, columns), offset in zip(shapes, offsets, strict=True):
            start, end = max(left, offset), min(right, offset + rows * columns)
            length = max(0, end - start)
            pieces.append(Piece((rows, columns), start - left, length, start - offset))
        layout.append(pieces)
    return layout


def sharded_layout(shapes: list[tuple[int, ...]], world_size: int) -> list[list[Piece]]:
    """Lay out matrices that ZeRO-3 cut each into ``world_size`` padded parts of equal length."""
    parts = [-(-rows * columns // world_size) for rows, columns in shapes]
    starts = [0, *itertools.accumulate(parts)]
    layout = []
    for rank in range(world_size):
        pieces = []
        for index, (rows, columns) in enumerate(shapes):
            offset = rank * parts[index]
            length = max(0, min(parts[index], rows * columns - offset))
            pieces.append(Piece((rows, columns), starts[index], length, offset))
        layout.append(pieces)
    return layout
