"""Frameworks used as their guides say: Transformers' Trainer, Lightning Fabric, Ray Train with DeepSpeed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.stacks.job import LEARNING_RATE, LOGGED_STEPS, Job, Record, batch_of, model_of, rows_in_memory
from benchmarks.stacks.loops import CLIP, deepspeed_config
from codex_ray.train.engine import import_deepspeed


class Rows(Dataset[dict[str, torch.Tensor]]):
    """Rows in memory, as the models of Transformers take them."""

    def __init__(self, rows_NS: torch.Tensor) -> None:
        self._rows = rows_NS

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self._rows[index], "labels": self._rows[index]}


def trainer(job: Job, rank: int) -> Record:
    """Train with Transformers' Trainer: plain in fp32, its DeepSpeed integration in bf16."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    record = Record()

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            record.step(float("nan"))

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                record.losses[-1] = logs["loss"]

    if job.stage:
        import_deepspeed("cpu")
    batch = batch_of(job)
    arguments = TrainingArguments(
        output_dir=f"{job.output}/trainer",
        per_device_train_batch_size=batch.micro_rows,
        gradient_accumulation_steps=batch.accumulation,
        max_steps=job.steps,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=0.1,
        max_grad_norm=CLIP,
        logging_steps=LOGGED_STEPS,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        ddp_backend="gloo",
        bf16=job.dtype == "bfloat16",
        deepspeed=deepspeed_config(job) if job.stage else None,
        disable_tqdm=True,
    )
    rows_NS = torch.cat(rows_in_memory(replace(job, workers=1), 0))
    Trainer(model=model_of(job), args=arguments, train_dataset=Rows(rows_NS), callbacks=[Watch()]).train()
    return record


def fabric(job: Job, rank: int) -> Record:
    """Train with Lightning Fabric over DistributedDataParallel; bf16 is its mixed precision."""
    from lightning_fabric import Fabric

    launched = Fabric(
        accelerator="cpu",
        devices=job.workers,
        strategy="ddp" if job.workers > 1 else "auto",
        precision="bf16-mixed" if job.dtype == "bfloat16" else "32-true",
    )
    launched.launch()
    plain: Any = model_of(job)
    model, optimizer = launched.setup(
        plain, torch.optim.AdamW(plain.parameters(), lr=LEARNING_RATE, weight_decay=0.1)
    )
    rows_NS = torch.cat(rows_in_memory(job, rank))
    batch, record = batch_of(job), Record()
    loader = DataLoader(Rows(rows_NS), batch_size=batch.micro_rows)
    losses: list[torch.Tensor] = []
    for number, micro in enumerate(loader, 1):
        due = number % batch.accumulation == 0
        with launched.no_backward_sync(model, enabled=not due and job.workers > 1):
            loss = model(**micro).loss / batch.accumulation
            launched.backward(loss)
        losses.append(loss.detach())
        if due:
            launched.clip_gradients(model, optimizer, max_norm=CLIP)
            optimizer.step()
            optimizer.zero_grad()
            record.step(torch.stack(losses).sum().item())
            losses.clear()
    return record


def ray_deepspeed(job: Job, rank: int) -> Record:
    """Train as Ray Train's guide to DeepSpeed does: Ray Data into a DeepSpeed engine in a TorchTrainer."""
    import ray
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    ray.init(num_cpus=8, include_dashboard=False, configure_logging=False, object_store_memory=256 * 2**20)
    try:
        data = ray.data.from_numpy(torch.cat(rows_in_memory(replace(job, workers=1), 0)).numpy())
        TorchTrainer(
            _ray_worker,
            train_loop_config={"job": job},
            scaling_config=ScalingConfig(num_workers=job.workers, resources_per_worker={"CPU": 1}),
            datasets={"train": data},
            run_config=ray.train.RunConfig(storage_path=f"{job.output}/ray"),
        ).fit()
    finally:
        ray.shutdown()
    return Record()  # the workers have saved theirs


def _ray_worker(config: dict[str, Any]) -> None:
    import ray.train

    job: Job = config["job"]
    torch.set_num_threads(job.threads)
    rank = ray.train.get_context().get_world_rank()
    library = import_deepspeed("cpu")
    model: Any = model_of(job)
    engine, _, _, _ = library.initialize(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.1),
        config=deepspeed_config(job),
    )
    batch, record = batch_of(job), Record()
    shard = ray.train.get_dataset_shard("train")
    losses: list[torch.Tensor] = []
    for micro in shard.iter_torch_batches(batch_size=batch.micro_rows, dtypes=torch.int64):
        loss = engine(input_ids=micro["data"], labels=micro["data"]).loss
        engine.backward(loss)
        engine.step()
        losses.append(loss.detach())
        if len(losses) == batch.accumulation:
            record.step(torch.stack(losses).mean().item())
            losses.clear()
    ray.train.report({"loss": record.losses[-1]})
    record.save(job, rank)
