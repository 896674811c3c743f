"""Cutting a checkpoint anew for another number of workers.

ZeRO's files hold one part per worker, and DeepSpeed reads them only with as many workers as wrote them. Its
own conversion (the universal form) takes one process, knows AdamW's states alone, and under ZeRO-3 gives all
groups the settings of the first. Here each new worker reads, from the old workers' files, the numbers that
fall into its own parts, and writes files as DeepSpeed would have with this number of workers: they are then
loaded like any other checkpoint, exactly.

Stages 1 and 2 lay a group's parameters end to end and cut the whole into equal parts; stage 3 cuts every
parameter. Either way the parts are padded at the end, and the padding is all that depends on the number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

OPTIMIZER_FILE = "zero_pp_rank_{}_mp_rank_00_optim_states.pt"
MODEL_FILE = "mp_rank_00_model_states.pt"
SHARDED_MODEL_FILE = "zero_pp_rank_{}_mp_rank_00_model_states.pt"


@dataclass(frozen=True)
class Layout:
    """How a running engine has cut its parameters.

    Attributes:
        lengths: numbers in each group, without padding (stages 1 and 2).
        sizes: numbers of each group that one worker holds, with padding (stages 1 and 2).
        shapes: shapes of the parameters by name, for each sub-group in order (stage 3).
    """

    lengths: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    shapes: tuple[Mapping[str, tuple[int, ...]], ...] = ()


def recut(old: Path, new: Path, layout: Layout, *, rank: int, world: int, old_world: int) -> None:
    """Write this worker's files of a checkpoint that ``old_world`` workers wrote; every rank takes part.

    Args:
        old: DeepSpeed's folder of the checkpoint.
        new: folder to write, which is there.
        layout: of the engine that will load it.
        rank: this worker; ``world``: how many there are now.
        old_world: how many there were.
    """
    files = [_single(old, OPTIMIZER_FILE.format(other)) for other in range(old_world)]
    states = [_read(file) for file in files]
    mine = dict(states[0])  # what is the same in all: the loss scale, the groups' settings, versions
    optimizers = [state["optimizer_state_dict"] for state in states]
    if layout.shapes:
        model = _read(old / SHARDED_MODEL_FILE.format(0))
        mine["optimizer_state_dict"] = _by_parameter(
            optimizers, model["param_shapes"], layout.shapes, rank, world
        )
        _write_sharded_model(old, new, model, rank, world, old_world)
    else:
        mine["optimizer_state_dict"] = _by_group(optimizers, layout, rank, world)
        if rank == 0:
            torch.save(_read(old / MODEL_FILE) | {"dp_world_size": world}, new / MODEL_FILE)
    prefix = files[0].name.removesuffix(OPTIMIZER_FILE.format(0))
    torch.save(mine, new / f"{prefix}{OPTIMIZER_FILE.format(rank)}")


def cut(parts: Sequence[Tensor], length: int, size: int, rank: int) -> Tensor:
    """Return numbers ``rank * size`` to ``(rank + 1) * size`` of the parts laid end to end.

    Only the first ``length`` numbers count; zeros stand behind them.
    """
    result = parts[0].new_zeros(size)
    start, stop, first = rank * size, min((rank + 1) * size, length), 0
    for part in parts:
        begin, end = max(start, first), min(stop, first + part.numel())
        if begin < end:
            result[begin - start : end - start] = part[begin - first : end - first]
        first += part.numel()
    return result


def _by_group(optimizers: list[dict[str, Any]], layout: Layout, rank: int, world: int) -> dict[str, Any]:
    """Stages 1 and 2."""
    first = optimizers[0]
    held = [optimizer["base_optimizer_state"]["state"] for optimizer in optimizers]
    states, masters, paddings = {}, [], []
    for group, (length, size) in enumerate(zip(layout.lengths, layout.sizes, strict=True)):
        states[group] = {
            key: cut([state[group][key] for state in held], length, size, rank) if value.dim() else value
            for key, value in held[0][group].items()
        }
        flat = [optimizer["single_partition_of_fp32_groups"][group] for optimizer in optimizers]
        masters.append(cut(flat, length, size, rank))
        paddings.append(size * world - length if rank == world - 1 else 0)
    return first | {
        "base_optimizer_state": first["base_optimizer_state"] | {"state": states},
        "single_partition_of_fp32_groups": masters,
        "group_paddings": paddings,
        "partition_count": [world] * len(masters),
    }


def _by_parameter(
    optimizers: list[dict[str, Any]],
    old_shapes: Sequence[Mapping[str, Sequence[int]]],
    new_shapes: Sequence[Mapping[str, tuple[int, ...]]],
    rank: int,
    world: int,
) -> dict[str, Any]:
    """Stage 3, where also the sub-groups may be others."""
    old_world = len(optimizers)
    places: dict[str, tuple[int, int]] = {}  # a parameter's sub-group, and where in it a worker's part begins
    for group, shapes in enumerate(old_shapes):
        begin = 0
        for name, shape in shapes.items():
            places[name] = (group, begin)
            begin += _part(math.prod(shape), old_world)

    def mine(flats: list[Any], shapes: Mapping[str, tuple[int, ...]]) -> Tensor:
        """``flats[worker][sub-group]`` are flat; return this worker's part of a new sub-group."""
        pieces = []
        for name, shape in shapes.items():
            length, (group, begin) = math.prod(shape), places[name]
            held = [flat[group][begin : begin + _part(length, old_world)] for flat in flats]
            pieces.append(cut(held, length, _part(length, world), rank))
        return torch.cat(pieces)

    held = [optimizer["optimizer_state_dict"]["state"] for optimizer in optimizers]
    states, masters = {}, []
    for number, shapes in enumerate(new_shapes):
        before = held[0][places[next(iter(shapes))][0]]
        states[number] = {
            key: mine([{group: state[group].get(key) for group in state} for state in held], shapes)
            if value.dim()
            else value
            for key, value in before.items()
        }
        masters.append(mine([optimizer["fp32_flat_groups"] for optimizer in optimizers], shapes))
    inner = optimizers[0]["optimizer_state_dict"]
    return optimizers[0] | {
        "partition_count": world,
        "optimizer_state_dict": inner | {"state": states},
        "fp32_flat_groups": masters,
    }


def _write_sharded_model(
    old: Path, new: Path, model: dict[str, Any], rank: int, world: int, old_world: int
) -> None:
    """Stage 3's model file: buffers, and this worker's parts of frozen parameters."""
    fragments = model["frozen_param_fragments"]
    if fragments:
        others = [_read(old / SHARDED_MODEL_FILE.format(other)) for other in range(old_world)]
        held = [other["frozen_param_fragments"] for other in others]
        fragments = type(fragments)(
            (name, cut([f[name].view(-1) for f in held], n := math.prod(shape), _part(n, world), rank))
            for name, shape in model["frozen_param_shapes"].items()
        )
    changed = model | {"dp_world_size": world, "frozen_param_fragments": fragments}
    torch.save(changed, new / SHARDED_MODEL_FILE.format(rank))


def _part(length: int, world: int) -> int:
    return -(-length // world)


def _read(path: Path) -> dict[str, Any]:
    """Map a file into memory: only what is used of it is read. Its hash has been checked."""
    # nosemgrep: no-pickled-weights
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False, mmap=True)
    return state


def _single(folder: Path, name: str) -> Path:
    found = list(folder.glob(f"*{name}"))
    assert len(found) == 1, f"{folder} has {len(found)} files {name}"
    return found[0]
