"""LoRA adapters beside a model's weights: each row of a batch has its own, or none.

The base is multiplied once for all rows; what an adapter adds is computed for its rows alone (LoRA, arXiv
2106.09685; batches of several adapters as in Punica, arXiv 2310.18547). Adapters come in PEFT's layout.

Tensor names end in their shape: R tokens, D inputs, F outputs, K rank of an adapter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from codex_ray.errors import CodexRayError
from codex_ray.files import read_json
from codex_ray.model.adapter import CONFIG, bare

WEIGHTS = "adapter_model.safetensors"

_PLAIN = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "modules_to_save": None,
    "fan_in_fan_out": False,
}
_PLAIN |= {"rank_pattern": {}, "alpha_pattern": {}, "lora_bias": False, "trainable_token_indices": None}
"""What the configuration says, where it says it, of an adapter that is products of two matrices alone."""

_HOOKED = "_adapters_beside"

_numbers = itertools.count(1)


class Adapter:
    """The pairs of matrices of one adapter, by the linear layer that they add to.

    Attributes:
        number: tells adapters apart, also of those that are gone.
        maps: for each layer ``[D, K]`` and ``[K, F]``, the second scaled.
    """

    def __init__(self, maps: dict[str, tuple[Tensor, Tensor]]) -> None:
        self.number, self.maps = next(_numbers), maps

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return sum(one.nbytes for pair in self.maps.values() for one in pair)


def load_adapter(folder: Path, model: Any) -> Adapter:
    """Read an adapter for a model that stays as it is.

    Raises:
        CodexRayError: it is damaged, of another base, or more than products of two matrices.
    """
    config = read_json(folder / CONFIG, "adapter configuration")
    for key, plain in _PLAIN.items():
        if (config.get(key) or plain) != plain:
            raise CodexRayError(
                f"adapter {folder} has {key}={config[key]}, which cannot be held beside its base; serve it "
                "by itself (model=FOLDER), which merges it"
            )
    try:
        tensors = load_file(folder / WEIGHTS)
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CodexRayError(f"adapter {folder} is damaged ({error}); save it again with PEFT") from error
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    linears = {name: part for name, part in bare(model).named_modules() if isinstance(part, nn.Linear)}
    maps, first = {}, ".lora_A.weight"
    for key in [key for key in tensors if key.endswith(first)]:
        name = key.removesuffix(first).removeprefix("base_model.model.")
        other = tensors.pop(key.replace("lora_A", "lora_B"), None)
        maps[name] = _pair(folder, linears.get(name), name, tensors.pop(key), other, scale)
    if tensors or not maps:
        raise _misfit(folder, next(iter(tensors), "no layer"))
    return Adapter(maps)


def _pair(
    folder: Path, layer: nn.Linear | None, name: str, first_KD: Tensor, second_FK: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    if layer is None or second_FK is None or name.endswith("lm_head"):
        raise _misfit(folder, name)
    if first_KD.shape[1] != layer.in_features or tuple(second_FK.shape) != (
        layer.out_features,
        len(first_KD),
    ):
        raise _misfit(folder, f"{name} of another size")
    if not (first_KD.isfinite().all() and (second_FK * scale).isfinite().all()):
        raise CodexRayError(f"adapter {folder} holds numbers that are not finite ({name}); train it again")
    device = layer.weight.device
    return (
        first_KD.to(device, torch.float32).t().contiguous(),
        second_FK.to(device, torch.float32).t().contiguous() * scale,
    )


def _misfit(folder: Path, what: str) -> CodexRayError:
    return CodexRayError(
        f"adapter {folder} does not fit the model that is served ({what}); serve the base that its "
        f"{CONFIG} names"
    )


class Beside:
    """What the adapters of a pass add; shared by all layers of one model.

    Attributes:
        groups: the pass's adapters, each with the places of its tokens; empty for a pass without.
    """

    def __init__(self) -> None:
        self.groups: list[tuple[Adapter, Tensor]] = []

    def of(self, adapters: Sequence[Adapter | None], device: torch.device) -> None:
        """Say whose each token of the next pass is."""
        places: dict[int, tuple[Adapter, list[int]]] = {}
        for place, one in enumerate(adapters):
            if one is not None:
                places.setdefault(one.number, (one, []))[1].append(place)
        self.groups = [(one, torch.tensor(found, device=device)) for one, found in places.values()]

    def add(self, name: str, x_RD: Tensor, mapped_RF: Tensor) -> None:
        """Add to the outputs of one layer, in place."""
        for adapter, places in self.groups:
            if (pair := adapter.maps.get(name)) is not None:
                first_DK, second_KF = pair
                added = (x_RD[places].float() @ first_DK) @ second_KF
                mapped_RF.index_add_(0, places, added.to(mapped_RF.dtype))

    @classmethod
    def hooked(cls, model: nn.Module) -> Beside:
        """What a model's own linear layers add; the same for all who use the model, since they add it all."""
        found: Beside | None = getattr(model, _HOOKED, None)
        if found is None:
            found = cls()
            setattr(model, _HOOKED, found)
            for name, part in model.named_modules():
                if isinstance(part, nn.Linear):
                    part.register_forward_hook(found._hook(name))
        return found

    def _hook(self, name: str) -> Any:
        def hooked(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if not self.groups or not any(name in adapter.maps for adapter, _ in self.groups):
                return None
            mapped = output.flatten(0, -2).clone()
            self.add(name, given[0].flatten(0, -2), mapped)
            return mapped.view_as(output)

        return hooked


@contextmanager
def adapted(model: nn.Module, adapter: Adapter | None, tokens: int) -> Iterator[None]:
    """Have a model's own forward passes over so many tokens add an adapter, for the length of the block."""
    if adapter is None:
        yield
        return
    beside = Beside.hooked(model)
    beside.of([adapter] * tokens, next(model.parameters()).device)
    try:
        yield
    finally:
        beside.of((), torch.device("cpu"))
