"""Writing a checkpoint or the final model from all ranks together, and reading a checkpoint back."""

from __future__ import annotations

import hashlib
import random
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from codex_ray.config.train import Checkpoints
from codex_ray.errors import CodexRayError
from codex_ray.files import SMALLEST_FREE_BYTES, unwritable
from codex_ray.tokenizer import Tokenizer
from codex_ray.train.checkpoint import CheckpointFolder, Found, hash_share, writable
from codex_ray.train.engine import Engine
from codex_ray.train.loop import State
from codex_ray.train.schedule import Plan


def save_checkpoint(engine: Engine, folder: CheckpointFolder, settings: Checkpoints, state: State) -> None:
    """Write and commit a checkpoint of ``state``; all ranks call it at the same step.

    Raises:
        CodexRayError: the disk is full or the folder cannot be written; nothing half-written
            is left under a checkpoint's name, and earlier checkpoints stay.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    staging = folder.staging(state.step)
    try:
        if rank == 0:
            writable(staging)
        dist.barrier()
        engine.save(staging, asdict(state))
        torch.save(_random_state(), staging / f"random_{rank}.pt")
        dist.barrier()
        shares: list[dict[str, str] | None] = [None] * world
        dist.all_gather_object(shares, hash_share(staging, rank, world))
        if rank == 0:
            hashes = {name: value for share in shares if share for name, value in share.items()}
            folder.commit(state.step, hashes, world_size=world, validation_loss=state.validation_loss)
            folder.prune(settings)
        dist.barrier()
    except OSError as error:
        folder.discard(state.step)
        raise unwritable(staging, error) from error
    except RuntimeError as error:
        # torch's archive writer reports a failed write as a RuntimeError without a reason.
        if shutil.disk_usage(folder.folder).free < SMALLEST_FREE_BYTES:
            folder.discard(state.step)
            raise CodexRayError(
                f"the disk is full while writing {staging}; free some space and run it again with resume=auto"
            ) from error
        raise


def load_checkpoint(engine: Engine, found: Found, state: State) -> None:
    """Bring the engine, the random generators and ``state`` back to where the checkpoint was written.

    With another number of workers than wrote it, each begins a random stream of its own.

    Raises:
        CodexRayError: the checkpoint cannot be cut anew for this number of workers.
    """
    saved = engine.load(found.folder, found.world_size)
    state.step, state.elapsed = saved["step"], saved["elapsed"]
    for name in ("lowest_validation_loss", "validations_since_lowest", "recent_losses"):
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
    stored = torch.load(found.folder / f"random_{dist.get_rank()}.pt", weights_only=True)
    torch.set_rng_state(stored["torch"])
    if "cuda" in stored:
        torch.cuda.set_rng_state(stored["cuda"])
    version, keys, gauss = stored["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, numbers, position, has_gauss, cached = stored["numpy"]
    np.random.set_state((kind, np.array(numbers, dtype=np.uint32), position, has_gauss, cached))


def save_model(engine: Engine, model: PreTrainedModel, folder: Path, tokenizer: Path) -> None:
    """Gather the fp32 weights and write a model folder under its name when complete; all ranks take part."""
    weights = engine.full_weights()
    if dist.get_rank() == 0:
        staging = folder.with_name(f".{folder.name}.partial")
        writable(staging)
        exported = type(model)(model.config).float()
        exported.load_state_dict(weights, strict=False)
        exported.tie_weights()
        exported.save_pretrained(staging)
        Tokenizer.load(tokenizer).save(staging)
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)
    dist.barrier()


def _random_state() -> dict[str, Any]:
    kind, numbers, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (kind, numbers.tolist(), position, has_gauss, cached),  # type: ignore[union-attr]
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state
