"""Reading a checkpoint back on all ranks together, and writing the final model."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from codex_ray.files import write_json
from codex_ray.model.adapter import bare, with_config
from codex_ray.model.lineage import LINEAGE, weights_of
from codex_ray.tokenizer import Tokenizer
from codex_ray.tokenizer.chat import TEMPLATE_FILE
from codex_ray.train.checkpoint import Found, writable
from codex_ray.train.engine import Engine
from codex_ray.train.loop import State
from codex_ray.train.packed import unpack
from codex_ray.train.schedule import Plan


def load_checkpoint(
    engine: Engine, found: Found, state: State, restore: Callable[[Callable[[str], list[Any]]], None]
) -> None:
    """Bring the engine, the random generators and ``state`` back to where the checkpoint was written.

    With another number of workers than wrote it, each begins a random stream of its own. ``restore`` is
    given what reads the files of a name that ranks have kept, all of them.

    Raises:
        CodexRayError: the checkpoint cannot be cut anew for this number of workers, or the disk is full.
    """
    with _plain(found) as folder:
        _load(engine, found, folder, state)
        restore(lambda name: _kept(folder, name, found.world_size))


@contextmanager
def _plain(found: Found) -> Iterator[Path]:
    """Give a folder of the checkpoint's files without compression; one made for it goes afterwards."""
    if found.compression == "none":
        yield found.folder
        return
    staging = found.folder.with_name(f".{found.folder.name}.unpacked.partial")
    rank, world = dist.get_rank(), dist.get_world_size()
    names = sorted(found.manifest["files"])[rank::world]
    plain = [name for name in names if name in found.manifest["plain"]]
    unpack(found.folder, staging / found.folder.name, plain, "none")
    packed = [name for name in names if name not in plain]
    unpack(found.folder, staging / found.folder.name, packed, found.compression)
    dist.barrier()
    yield staging / found.folder.name
    dist.barrier()
    if rank == 0:
        shutil.rmtree(staging)


def _kept(folder: Path, name: str, ranks: int) -> list[Any]:
    files = [folder / f"{name}_{rank}.pt" for rank in range(ranks)]
    return [torch.load(file, weights_only=True) for file in files if file.is_file()]


def _load(engine: Engine, found: Found, folder: Path, state: State) -> None:
    saved = engine.load(folder, found.world_size)
    state.step, state.elapsed = saved["step"], saved["elapsed"]
    for name in ("lowest_validation_loss", "validations_since_lowest", "recent_losses", "tokens", "source"):
        setattr(state, name, saved.get(name, getattr(state, name)))  # a checkpoint may be older than they are
    if state.plan.total_steps is None:
        state.plan = Plan(**saved["plan"])
    if found.world_size != dist.get_world_size():
        seed = int.from_bytes(hashlib.sha256(f"{state.step} {dist.get_rank()}".encode()).digest()[:4], "big")
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        return
    # The manifest's hash was checked; these are tensors, numbers and tuples only.
    stored = torch.load(folder / f"random_{dist.get_rank()}.pt", weights_only=True)
    torch.set_rng_state(stored["torch"])
    if "cuda" in stored:
        torch.cuda.set_rng_state(stored["cuda"])
    version, keys, gauss = stored["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, numbers, position, has_gauss, cached = stored["numpy"]
    np.random.set_state((kind, np.array(numbers, dtype=np.uint32), position, has_gauss, cached))


def save_model(
    engine: Engine,
    model: Any,
    folder: Path,
    tokenizer: Path,
    lineage: Mapping[str, Any],
    *,
    merge: bool = False,
) -> None:
    """Gather the fp32 weights and write a model folder under its name when complete; all ranks take part.

    Of a model with adapters, they alone are written in PEFT's layout; with ``merge`` the whole model is, with
    their changes in its weights. ``lineage`` says where it comes from.
    """
    weights = engine.full_weights()
    if dist.get_rank() == 0:
        staging = folder.with_name(f".{folder.name}.partial")
        writable(staging)
        if bare(model) is model or merge:
            whole_model(model, weights).save_pretrained(staging)
        else:
            model.save_pretrained(staging, state_dict=weights)
        Tokenizer.load(tokenizer).save(staging)
        if (template := tokenizer / TEMPLATE_FILE).is_file():
            shutil.copyfile(template, staging / TEMPLATE_FILE)
        write_json(staging / LINEAGE, {**lineage, "weights": weights_of(staging)})
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)
    dist.barrier()


def whole_model(model: Any, weights: dict[str, torch.Tensor]) -> PreTrainedModel:
    """Return a model of its own with these weights, in fp32 on the CPU; adapters are merged in."""
    base = bare(model)
    exported: Any = type(base)(base.config).float()
    if base is not model:
        exported = with_config(exported, model.peft_config["default"])
    exported.load_state_dict(weights, strict=False)
    bare(exported).tie_weights()
    whole: PreTrainedModel = exported.merge_and_unload() if base is not model else exported
    return whole


def random_state() -> dict[str, Any]:
    """Return the state of this rank's random generators, as :func:`load_checkpoint` puts it back."""
    kind, numbers, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (kind, numbers.tolist(), position, has_gauss, cached),  # type: ignore[union-attr]
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state
