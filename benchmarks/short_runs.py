"""Short trainings on one core, as benchmarks of settings want them.

The model, order, optimizer and schedule of real runs, in bfloat16 with float32 masters, without Ray and
DeepSpeed, whose starts would take longer than the training.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codex_ray.config.train import Pretrain
from codex_ray.corpus.direct import RowReader
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.stream import open_stream
from codex_ray.model import build_model
from codex_ray.model.parametrisation import width_multiplier
from codex_ray.tokenizer import Tokenizer
from codex_ray.train.objectives.next_token import NextToken
from codex_ray.train.optimizer import build_optimizer
from codex_ray.train.schedule import Plan, learning_rate_share
from codex_ray.train.validation import validation_rows

VALIDATION_ROWS = 256
DIVERGED = 1e9  # in place of a loss that is not finite


def trained(settings: Pretrain, corpus: Path, steps: int) -> dict[str, Any]:
    """Train fresh weights for some steps; returns loss, steps, parameters and seconds."""
    optimizer, manifest = settings.optimizer, Manifest.load(corpus)
    model = _model(settings, manifest, corpus)
    masters = {
        name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()
    }
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    width = width_multiplier(model.config)
    adam = build_optimizer(optimizer, masters.items(), torch.bfloat16, width=width)
    rows = settings.train.batch_tokens // manifest.sequence_length
    stream = open_stream(
        corpus,
        "train",
        kind="direct",
        seed=settings.seed,
        first_step=0,
        steps=steps,
        batch_rows=rows,
        rank=0,
        world_size=1,
    )
    started, objective = time.perf_counter(), NextToken()
    for step, batch in enumerate(stream):
        input_ids_BS = torch.from_numpy(batch.tokens.astype(np.int64))
        for micro_BS in input_ids_BS.split(16):
            objective.loss(model, micro_BS, objective.weight(input_ids_BS)).backward()
        for group in adam.param_groups:
            group["lr"] = group["peak"] * learning_rate_share(settings.schedule, Plan(steps), step)
        _update(model, masters, adam, optimizer.clip_norm)
    return {
        "loss": _validate(model, manifest),
        "steps": steps,
        "parameters": sum(parameter.numel() for parameter in masters.values()),
        "seconds": round(time.perf_counter() - started, 1),
    }


def _model(settings: Pretrain, manifest: Manifest, corpus: Path) -> Any:
    tokenizer = Tokenizer.load(corpus / "tokenizer")
    return build_model(
        settings.model,
        vocabulary_size=tokenizer.vocabulary_size,
        sequence_length=manifest.sequence_length,
        seed=settings.seed,
        special_ids=tokenizer.special_ids,
    )


def _update(model: Any, masters: dict[str, Tensor], adam: torch.optim.Optimizer, clip: float) -> None:
    for name, parameter in model.named_parameters():
        masters[name].grad, parameter.grad = parameter.grad.float(), None
    torch.nn.utils.clip_grad_norm_(masters.values(), clip)
    adam.step()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(masters[name])


def _validate(model: Any, manifest: Manifest) -> float:
    """Mean loss over the held-out rows, in nats per token; infinite where training has diverged."""
    ((_, ids),) = validation_rows(manifest, VALIDATION_ROWS, 1).items()
    rows = torch.from_numpy(RowReader(manifest, "validation", cached_groups=1).take(ids).astype("int64"))
    objective, model = NextToken(), model.eval()
    with torch.no_grad():
        total = sum(objective.loss(model, micro, objective.weight(rows)).item() for micro in rows.split(16))
    return total if math.isfinite(total) else DIVERGED
