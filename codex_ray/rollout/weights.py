"""Weights on their way from a trainer to actors that sample: packed once, swapped in place, with a checksum.

Names are those of ``named_parameters`` of the model that samples. Either all parameters are published or,
where only an adapter learns, the adapter's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from codex_ray.errors import CodexRayError, nearest
from codex_ray.rollout.layout import Layout, Packed

MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that multiplying loses nothing
BITS = 1 << 64


def pack(tensors: Mapping[str, Tensor], layout: Layout) -> Packed:
    """Make weights ready to be published, in the precision of the model that samples.

    Raises:
        CodexRayError: the sampling model has no such parameter, or one of another shape.
    """
    if not tensors:
        raise CodexRayError("no weights were given to publish; give the trained parameters by name")
    ready = {}
    for name, tensor in tensors.items():
        if name not in layout.shapes:
            raise CodexRayError(
                f"the model that samples has no parameter {name}{nearest(name, layout.shapes)}; build it as "
                "the trainer builds its own"
            )
        if tuple(tensor.shape) != layout.shapes[name]:
            raise CodexRayError(
                f"parameter {name} is {list(tensor.shape)} where it is trained and "
                f"{list(layout.shapes[name])} where it samples; build both models alike"
            )
        ready[name] = tensor.detach().to(dtype=getattr(torch, layout.dtypes[name]))
    arrays = {name: _bytes(tensor).cpu().numpy() for name, tensor in ready.items()}
    return Packed(arrays, checksum(ready))


def swap(model: nn.Module, packed: Packed) -> int:
    """Put published weights into a model, in place; returns the checksum of what it then holds.

    Raises:
        CodexRayError: what it holds is not what was published.
    """
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, array in packed.arrays.items():
            held = parameters[name]
            # Copied, because what the object store hands out may not be written to.
            held.copy_(torch.from_numpy(array.copy()).view(held.dtype).view(held.shape))
    found = checksum({name: parameters[name] for name in packed.arrays})
    if found != packed.checksum:
        raise CodexRayError(
            f"an actor's weights have checksum {found:016x} and {packed.checksum:016x} was published; the "
            "object store or the actor's memory is damaged, run again"
        )
    return found


def checksum(tensors: Mapping[str, Tensor]) -> int:
    """Return 64 bits that differ where names, values or their places do, computed where the tensors are."""
    total = 0
    for name, tensor in sorted(tensors.items()):
        own = sum(byte * (place + 1) for place, byte in enumerate(name.encode()))
        data = _bytes(tensor.detach())
        width = next(size for size in (8, 4, 2, 1) if len(data) % size == 0)
        words = data.view({8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}[width])
        for start in range(0, len(words), 1 << 20):
            part = words[start : start + (1 << 20)].long()
            places = torch.arange(start + 1, start + 1 + len(part), device=part.device) * 2 + 1
            own = (own * 31 + int((part * places).sum().item())) % BITS  # the sum wraps around, as is wanted
        total = (total * MULTIPLIER + own) % BITS
    return total


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def named_parameters(model: Any, *, only_trained: bool = False) -> dict[str, Tensor]:
    """Return a model's parameters by name, or those alone that learn: an adapter's."""
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad or not only_trained
    }
