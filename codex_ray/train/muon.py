"""Muon for hidden matrices and AdamW for the rest, also over ZeRO's flattened partitions.

Muon (Jordan et al., 2024; scaling of the update after arXiv 2502.16982) orthogonalises the
momentum of a whole matrix. ZeRO gives the optimizer one flat fp32 tensor per group and rank, in
which matrices are cut anywhere. So the momentum, which is elementwise, stays partitioned; the
ranks gather it once, share the matrices out among themselves, and each keeps the part of the
result that falls into its own partition. Gradients reach the optimizer averaged and clipped, so
the reported norm is the gradient's, not the orthogonalised update's.

Shape legend: M rows, N columns, K matrices of one shape.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.adamw import adamw

# Quintic iteration whose slope at zero is steep; after five steps singular values lie in
# about [0.7, 1.2], which is as good as 1 for training (Jordan et al., 2024).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True)
class Piece:
    """Where one matrix lies in a rank's flat partition.

    ``start`` and ``length`` are the slice of the flat tensor; ``offset`` is its place in the
    flattened matrix. A rank that holds none of the matrix has length 0.
    """

    shape: tuple[int, int]
    start: int
    length: int
    offset: int


def orthogonalise(update_KMN: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """Bring the singular values of K matrices near one by Newton–Schulz iteration.

    Args:
        update_KMN: matrices of one shape, any floating dtype.
        steps: iterations.
        dtype: precision of the iteration; bfloat16 suffices.

    Returns:
        The orthogonalised matrices in float32, same shape.
    """
    a, b, c = _COEFFICIENTS
    x_KMN = update_KMN.to(dtype)
    tall = x_KMN.size(-2) > x_KMN.size(-1)
    if tall:
        x_KMN = x_KMN.mT
    x_KMN = x_KMN / (x_KMN.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram_KMM = x_KMN @ x_KMN.mT
        polynomial_KMM = torch.baddbmm(gram_KMM, gram_KMM, gram_KMM, beta=b, alpha=c)
        x_KMN = torch.baddbmm(x_KMN, polynomial_KMM, x_KMN, beta=a)
    return (x_KMN.mT if tall else x_KMN).float()


class MuonAdamW(torch.optim.Optimizer):
    """Muon for groups with ``muon=True``, AdamW for the others.

    Each group carries ``lr``, ``weight_decay`` and its method's constants. Parameters of a Muon
    group are matrices, or, after :meth:`partitioned`, flat tensors made of pieces of matrices.
    States are called ``exp_avg`` (both methods' momentum) and ``exp_avg_sq``, as AdamW's are.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, newton_schulz_steps: int, newton_schulz_dtype: torch.dtype
    ) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "muon": False})
        self.newton_schulz_steps = newton_schulz_steps
        self.newton_schulz_dtype = newton_schulz_dtype
        self._layouts: dict[Tensor, list[list[Piece]]] = {}

    def partitioned(self, flat: Tensor, layout: list[list[Piece]]) -> None:
        """Tell what this rank's flat tensor, and the other ranks', are made of: ``layout[rank][matrix]``."""
        self._layouts[flat] = layout

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Apply one update from the gradients at hand."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            if group["muon"]:
                self._muon(group, parameters)
            else:
                self._adamw(group, parameters)
        return loss

    def _adamw(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            gradient = parameter.grad
            assert gradient is not None
            adamw(
                [parameter],
                [gradient],
                [state["exp_avg"]],
                [state["exp_avg_sq"]],
                [],
                [state["step"]],
                foreach=False,
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )

    def _muon(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        nesterov = []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"] = torch.zeros_like(parameter)
            state["step"] += 1
            momentum, gradient = state["exp_avg"], parameter.grad
            assert gradient is not None
            momentum.lerp_(gradient, 1.0 - group["momentum"])
            nesterov.append(torch.lerp(gradient, momentum, group["momentum"]))
        if parameters[0] in self._layouts:
            pairs = zip(parameters, nesterov, strict=True)
            updates = [self._flat_update(flat, self._layouts[parameter]) for parameter, flat in pairs]
        else:
            updates = self._orthogonal(nesterov)
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
            parameter.add_(update, alpha=-group["lr"])

    def _orthogonal(self, matrices: list[Tensor]) -> list[Tensor]:
        """Orthogonalise matrices, those of one shape together, scaled to keep their update's RMS."""
        by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, matrix in enumerate(matrices):
            by_shape[(matrix.size(0), matrix.size(1))].append(index)
        results: list[Tensor] = list(matrices)
        for (rows, columns), indices in by_shape.items():
            stacked = torch.stack([matrices[index] for index in indices])
            scale = max(1.0, rows / columns) ** 0.5
            update = orthogonalise(stacked, self.newton_schulz_steps, self.newton_schulz_dtype) * scale
            for position, index in enumerate(indices):
                results[index] = update[position]
        return results

    def _flat_update(self, flat: Tensor, layout: list[list[Piece]]) -> Tensor:
        """Orthogonalise the matrices that this rank's partition touches; needs all ranks."""
        world, rank = len(layout), dist.get_rank() if len(layout) > 1 else 0
        gathered = flat.new_empty(world, flat.numel())
        if world > 1:
            dist.all_gather_into_tensor(gathered.view(-1), flat)
        else:
            gathered[0] = flat
        mine = [index for index, piece in enumerate(layout[rank]) if piece.length]
        matrices = []
        for index in mine:
            parts = [
                gathered[other, piece.start : piece.start + piece.length]
                for other, pieces in enumerate(layout)
                if (piece := pieces[index]).length
            ]
            matrices.append(torch.cat(parts).view(layout[rank][index].shape))
        update = torch.zeros_like(flat)
        for index, matrix in zip(mine, self._orthogonal(matrices), strict=True):
            piece = layout[rank][index]
            part = matrix.reshape(-1)[piece.offset : piece.offset + piece.length]
            update[piece.start : piece.start + piece.length] = part
        return update
