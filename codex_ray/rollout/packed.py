"""Linear maps with their weights in the order that products want them in (a copy), and adapters beside them.

That is the compiled kernels' order where these multiply (``products.h``), and oneDNN's elsewhere.

Tensor names end in their shape: R rows, D inputs, F outputs, K rank of an adapter.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from codex_ray.rollout.lora import Beside
from codex_ray.rollout.native import ADDED, GATED, PANEL, Kernels, Panels

_LINEAR = torch.ops.mkldnn._linear_pointwise


class PackedLinear:
    """One or several linear maps of the same input as one, and what may be folded into it.

    Args:
        parts: linear layers, or such with a LoRA that :func:`plain_adapter` takes.
        names: of the parts, by which adapters of single rows are found in ``beside``.
        kernels: that multiply; None is oneDNN.
    """

    def __init__(self, *parts: Any, names: Sequence[str], beside: Beside, kernels: Kernels | None) -> None:
        biases = [part.bias.detach() for part in parts if part.bias is not None]
        self._bias = torch.cat(biases) if biases else None
        self._kernels, self._beside = kernels, beside
        self._pack([part.weight.detach() for part in parts])
        self._adapters = list(_adapters(parts))
        ends = list(itertools.accumulate(part.weight.shape[0] for part in parts))
        self._outputs = [
            (name, slice(start, end)) for name, start, end in zip(names, [0, *ends[:-1]], ends, strict=True)
        ]

    def _pack(self, weights: Sequence[Tensor]) -> None:
        weight_FD = torch.cat(list(weights))
        if self._kernels is None:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight_FD)
        else:
            self.panels = Panels(weight_FD, self._bias)

    @property
    def adapted(self) -> bool:
        """Whether adapters change what is mapped."""
        return bool(self._adapters or self._beside.groups)

    def __call__(self, x_RD: Tensor) -> Tensor:
        """Map."""
        mapped_RF = self._mapped(x_RD)
        if self.adapted:
            for outputs, first_DK, second_KF in self._adapters:
                mapped_RF[:, outputs] += (x_RD.to(first_DK.dtype) @ first_DK) @ second_KF
            for name, outputs in self._outputs:
                self._beside.add(name, x_RD, mapped_RF[:, outputs])
        return mapped_RF

    def _mapped(self, x_RD: Tensor) -> Tensor:
        if self._kernels is not None:
            return self._kernels.multiply(x_RD, self.panels)
        mapped_RF: Tensor = _LINEAR.default(x_RD, self._weight, self._bias, "none", [], "")
        return mapped_RF

    def added_to(self, x_RD: Tensor, other_RF: Tensor) -> Tensor:
        """Map, and add another tensor."""
        if self.adapted:
            return self(x_RD).add_(other_RF)
        if self._kernels is not None:
            return self._kernels.multiply(x_RD, self.panels, ADDED, other_RF)
        sum_RF: Tensor = _LINEAR.binary(x_RD, other_RF, self._weight, self._bias, "add")
        return sum_RF


class PackedGate(PackedLinear):
    """Two maps of the same size, the gate first: what is returned is its swish times the other."""

    def _pack(self, weights: Sequence[Tensor]) -> None:
        if self._kernels is None:
            return super()._pack(weights)
        size = len(weights[0])
        weight_FD = _side_by_side(weights)
        bias_F = None if self._bias is None else _side_by_side(self._bias.chunk(2))
        self.panels = Panels(weight_FD, bias_F, 2 * size)
        self._whole = Panels(weight_FD, bias_F) if len(weight_FD) > 2 * size else self.panels

    def __call__(self, x_RD: Tensor) -> Tensor:
        """Map."""
        if self._kernels is not None and not self.adapted:
            return self._kernels.multiply(x_RD, self.panels, GATED)
        gate_RF, up_RF = super().__call__(x_RD).chunk(2, -1)
        return functional.silu(gate_RF).mul_(up_RF)

    def _mapped(self, x_RD: Tensor) -> Tensor:
        if self._kernels is None:
            return super()._mapped(x_RD)
        halves = self._kernels.multiply(x_RD, self._whole).view(len(x_RD), -1, 2, PANEL // 2).transpose(1, 2)
        return halves.flatten(2)[:, :, : self.panels.outputs // 2].flatten(1)


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """Panels whose first half is of one tensor and whose second is of the other, padded with zeros."""
    half = PANEL // 2
    missing = [0, 0] * (parts[0].dim() - 1) + [0, -len(parts[0]) % half]
    return torch.cat(
        [functional.pad(part, missing).view(-1, half, *part.shape[1:]) for part in parts], 1
    ).flatten(0, 1)


def _adapters(parts: tuple[Any, ...]) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """For each adapter the outputs it adds to, and its two matrices, the second scaled."""
    start = 0
    for part in parts:
        end = start + part.weight.shape[0]
        if hasattr(part, "lora_A") and not part.merged and not part.disable_adapters:
            name = part.active_adapters[0]
            second_KF = part.lora_B[name].weight.detach().t() * part.scaling[name]
            yield slice(start, end), part.lora_A[name].weight.detach().t(), second_KF
        start = end


def plain_adapter(module: nn.Module) -> bool:
    """Whether a module is a linear layer with one LoRA (arXiv 2106.09685) that is nothing more than that."""
    kind = type(module)
    if (kind.__module__, kind.__name__) != ("peft.tuners.lora.layer", "Linear"):
        return False
    layer: Any = module
    names = layer.active_adapters
    return (
        len(names) == 1
        and names[0] in layer.lora_A
        and not layer.lora_variant
        and not layer.lora_bias[names[0]]
    )
