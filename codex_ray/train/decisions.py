"""What a run decides once, where it depends on the machine or the clock; ``decided.json`` keeps it."""

from __future__ import annotations

from typing import Any

import torch

from codex_ray.corpus.manifest import Manifest
from codex_ray.errors import CodexRayError
from codex_ray.files import read_json, write_json
from codex_ray.tokenizer import Tokenizer
from codex_ray.track.hardware import choose_dtype, peak_flops
from codex_ray.track.run_folder import RunFolder
from codex_ray.train.batches import Batches
from codex_ray.train.checkpoint import Found
from codex_ray.train.schedule import Plan
from codex_ray.train.task import Task


def decide(
    run: RunFolder,
    task: Task,
    manifest: Manifest,
    batches: Batches,
    device: torch.device,
    found: Found | None,
) -> dict[str, Any]:
    """Settle what depends on the machine or the clock, once per run; a resumed run keeps it."""
    path = run.path / "decided.json"
    if found is not None and not path.exists() and "decided" in found.manifest:
        write_json(path, found.manifest["decided"])  # the run's folder was lost, its checkpoints were not
    if path.exists():
        decided: dict[str, Any] = read_json(path, "run decisions")
        if decided["corpus_fingerprint"] != manifest.fingerprint:
            raise CodexRayError(
                f"the corpus {manifest.folder} has changed since run {run.name} began; "
                "give the corpus it began with, or another name=NAME"
            )
        return {"skips": []} | decided
    wanted, threads = task.settings.compute.dtype, torch.get_num_threads()
    deepspeed = task.settings.deepspeed
    if wanted == "auto" and deepspeed.stage == 0 and not deepspeed.autocast:
        wanted = "float32"  # DeepSpeed's stage 0 in bf16 is another optimizer
    dtype = choose_dtype(device.type, threads)[0] if wanted == "auto" else wanted
    rows = task.epoch_rows(manifest)
    decided = {
        "dtype": dtype,
        "device": device.type,
        "threads": threads,
        "peak_flops": peak_flops(device.type, dtype, threads)[0],
        "total_steps": Plan.of(task.settings.train, rows, batches).total_steps,
        "corpus_fingerprint": manifest.fingerprint,
        "skips": [],
    }
    tokenizer = Tokenizer.load(manifest.folder / "tokenizer")
    configuration = task.configuration(tokenizer, manifest)
    if configuration is not None:
        decided["model"] = configuration
    write_json(path, decided)
    return decided
