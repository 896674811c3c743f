"""Checkpoints without the weights that do not train: they lie in the base, which a checksum knows again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from codex_ray.errors import CodexRayError

KEY = "frozen"
"""Where a checkpoint's state has the checksum."""

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def frozen_names(module: nn.Module) -> frozenset[str]:
    """Return the names of weights that do not train, tied ones under each of theirs."""
    named = module.named_parameters(remove_duplicate=False)
    return frozenset(name for name, parameter in named if not parameter.requires_grad)


def checksum(module: nn.Module, whole: Callable[[nn.Parameter], Tensor]) -> int:
    """Return a number that other frozen weights, or the same in another order, do not have.

    Args:
        module: the model; ``whole``: gathers a parameter, where every rank takes part.
    """
    total = 0
    for place, parameter in enumerate(module.parameters(), start=1):
        if not parameter.requires_grad:
            weights = whole(parameter).detach()
            total += place * int(weights.view(_BITS[weights.element_size()]).sum(dtype=torch.int64))
    return total % 2**63


def without(names: frozenset[str], state: Any) -> Any:
    """Leave weights of these names out of what a checkpoint's file is to hold."""
    if not names or not isinstance(state, dict) or not isinstance(state.get("module"), Mapping):
        return state
    return state | {"module": {name: one for name, one in state["module"].items() if name not in names}}


def load_beside(names: frozenset[str]) -> Callable[..., None]:
    """Return what puts a checkpoint's weights ``src`` into the model ``dst``, whose frozen ones may stay.

    Raises:
        CodexRayError: the checkpoint lacks a weight that trains, or has one that the model does not have.
    """

    def load(src: Mapping[str, Any], dst: nn.Module) -> None:
        found = dst.load_state_dict(src, strict=False)
        wrong = [*sorted(set(found.missing_keys) - names), *found.unexpected_keys]
        if wrong:
            raise CodexRayError(
                f"the checkpoint and the model differ in {len(wrong)} weights, such as {wrong[0]}; resume it "
                "with the model and the adapters that it was written with"
            )

    return load
