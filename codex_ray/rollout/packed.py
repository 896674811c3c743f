"""Linear maps with their weights in the order that oneDNN wants them in (a copy), and adapters beside them.

Tensor names end in their shape: R rows, D inputs, F outputs, K rank of an adapter.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from codex_ray.rollout.lora import Beside

_LINEAR = torch.ops.mkldnn._linear_pointwise


class PackedLinear:
    """One or several linear maps of the same input as one, and what may be folded into it.

    Args:
        parts: linear layers, or such with a LoRA that :func:`plain_adapter` takes.
        names: of the parts, by which adapters of single rows are found in ``beside``.
    """

    def __init__(self, *parts: Any, names: Sequence[str], beside: Beside) -> None:
        weight = torch.cat([part.weight.detach() for part in parts])
        biases = [part.bias.detach() for part in parts if part.bias is not None]
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        self._bias = torch.cat(biases) if biases else None
        self._adapters = list(_adapters(parts))
        self._beside = beside
        ends = list(itertools.accumulate(part.weight.shape[0] for part in parts))
        self._outputs = [
            (name, slice(start, end)) for name, start, end in zip(names, [0, *ends[:-1]], ends, strict=True)
        ]

    def __call__(self, x_RD: Tensor, then: str = "none") -> Tensor:
        """Map, and apply ``swish`` if told so."""
        adapted = bool(self._adapters or self._beside.groups)
        mapped: Tensor = _LINEAR.default(x_RD, self._weight, self._bias, "none" if adapted else then, [], "")
        if not adapted:
            return mapped
        for outputs, first_DK, second_KF in self._adapters:
            mapped[:, outputs] += (x_RD.to(first_DK.dtype) @ first_DK) @ second_KF
        for name, outputs in self._outputs:
            self._beside.add(name, x_RD, mapped[:, outputs])
        return nn.functional.silu(mapped) if then == "swish" else mapped

    def with_other(self, x_RD: Tensor, other: Tensor, then: str) -> Tensor:
        """Map, and ``add`` or ``mul`` another tensor."""
        if self._adapters or self._beside.groups:
            mapped = self(x_RD)
            return mapped.add_(other) if then == "add" else mapped.mul_(other)
        combined: Tensor = _LINEAR.binary(x_RD, other, self._weight, self._bias, then)
        return combined


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
