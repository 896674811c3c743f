"""Loops that a person would write by hand: PyTorch's DistributedDataParallel, and DeepSpeed."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks.stacks.job import LEARNING_RATE, Job, Record, batch_of, model_of, rows_in_memory
from codex_ray.train.engine import import_deepspeed
from codex_ray.train.objectives.next_token import NextToken

CLIP = 1.0


def ddp(job: Job, rank: int) -> Record:
    """Train with DistributedDataParallel; in bf16 the weights are bf16 and the optimizer has fp32 masters."""
    dist.init_process_group("gloo", rank=rank, world_size=job.workers)
    model: Any = model_of(job)
    half = job.dtype == "bfloat16"
    masters = [parameter.detach().clone() for parameter in model.parameters()] if half else []
    if half:
        model = model.bfloat16()
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True) if job.workers > 1 else model
    optimizer = torch.optim.AdamW(masters or list(model.parameters()), lr=LEARNING_RATE, weight_decay=0.1)
    objective, record, micro_rows = NextToken(), Record(), batch_of(job).micro_rows
    for rows_BS in rows_in_memory(job, rank):
        total, micros = objective.weight(rows_BS), rows_BS.split(micro_rows)
        loss = torch.zeros(())
        for number, micro_BS in enumerate(micros, 1):
            last = number == len(micros) or job.workers == 1
            with nullcontext() if last else wrapped.no_sync():
                share = objective.loss(wrapped, micro_BS, total)
                share.backward()
            loss += share.detach()
        _update(model, masters, optimizer)
        record.step(loss.item())
    dist.destroy_process_group()
    return record


def _update(model: torch.nn.Module, masters: list[torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
    parameters = list(model.parameters())
    for parameter, master in zip(parameters, masters, strict=bool(masters)):
        assert parameter.grad is not None
        master.grad = parameter.grad.float()
    torch.nn.utils.clip_grad_norm_(masters or parameters, CLIP)
    optimizer.step()
    for parameter, master in zip(parameters, masters, strict=bool(masters)):
        parameter.data.copy_(master)
    for parameter in parameters:
        parameter.grad = None


def deepspeed(job: Job, rank: int) -> Record:
    """Train with DeepSpeed alone: its own configuration, its loss, data in memory."""
    library = import_deepspeed("cpu")
    library.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)
    model: Any = model_of(job)
    engine, _, _, _ = library.initialize(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.1),
        config=deepspeed_config(job),
    )
    record, micro_rows = Record(), batch_of(job).micro_rows
    for rows_BS in rows_in_memory(job, rank):
        losses = []
        for micro_BS in rows_BS.split(micro_rows):
            loss = engine(input_ids=micro_BS, labels=micro_BS).loss
            engine.backward(loss)
            engine.step()
            losses.append(loss.detach())
        record.step(torch.stack(losses).mean().item())
    dist.destroy_process_group()
    return record


def deepspeed_config(job: Job) -> dict[str, Any]:
    """The configuration that a user of DeepSpeed would write for this batch, stage and precision."""
    batch = batch_of(job)
    return {
        "train_micro_batch_size_per_gpu": batch.micro_rows,
        "gradient_accumulation_steps": batch.accumulation,
        "train_batch_size": batch.global_rows,
        "gradient_clipping": CLIP,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": job.dtype == "bfloat16"},
        "steps_per_print": 10**9,
        "zero_optimization": {"stage": job.stage},
    }
