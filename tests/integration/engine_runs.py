"""Runs of 20 optimizer steps in gloo processes: our engine at each ZeRO stage, and the plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model

from codex_ray.config.check import derive_batch
from codex_ray.config.model import Model, Residual
from codex_ray.config.train import DeepSpeed, Optimizer, Schedule, Training
from codex_ray.model import build_model
from codex_ray.train.engine import Engine
from codex_ray.train.objectives.next_token import NextToken
from codex_ray.train.optimizer import build_optimizer
from codex_ray.train.schedule import Plan, learning_rate_share
from codex_ray.train.start import ready_for_training
from tests.integration.processes import in_processes

STEPS, ROWS, LENGTH, VOCABULARY = 20, 12, 32, 97
SHAPE = Model(
    hidden_size=32, intermediate_size=64, layers=2, heads=4, key_value_heads=2, head_size=8,
    residual=Residual(streams=4),
)  # fmt: skip
SCHEDULE = Schedule(kind="cosine", warmup_steps=3)
SPECIAL = {"unk": 0, "bos": 1, "eos": 2, "pad": 3}


def settings_of(kind: str) -> Optimizer:
    return Optimizer(kind=kind, learning_rate=3e-3, matrix_learning_rate=0.01, clip_norm=0.5)


def tiny_model() -> Any:
    return build_model(SHAPE, vocabulary_size=VOCABULARY, sequence_length=LENGTH, seed=7, special_ids=SPECIAL)


def adapted(model: Any, options: dict[str, Any]) -> Any:
    """A low-rank adapter around a model, the same wherever it is made."""
    torch.manual_seed(5)
    return get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", **options)
    )


def global_batch(step: int) -> torch.Tensor:
    """A batch that repeats its patterns, so that there is something to learn."""
    generator = torch.Generator().manual_seed(step % 5)
    return torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=generator)


def plain_losses(kind: str = "adamw", adapter: dict[str, Any] | None = None) -> list[float]:
    """The same training by hand: one process, whole batch, no engine."""
    return plain_training(kind, adapter)[0]


def plain_training(
    kind: str = "adamw", adapter: dict[str, Any] | None = None, ema_decay: float = 0.0
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses, and the average of the weights after each update as its definition has it."""
    torch.set_num_threads(1)  # as the engine's processes: on a busy machine threads wait for one another
    average: dict[str, torch.Tensor] = {}
    model, objective = tiny_model(), NextToken()
    if adapter is not None:
        model = adapted(model, adapter)
    optimizer = build_optimizer(settings_of(kind), model.named_parameters(), torch.float32)
    losses = []
    for step in range(STEPS):
        batch = global_batch(step)
        loss = objective.loss(model, batch, objective.weight(batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate_share(SCHEDULE, Plan(STEPS), step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        share = 1 - min(ema_decay, (2 + step) / (11 + step)) if step else 1.0
        for name, weight in model.named_parameters():
            before = average.get(name, torch.zeros_like(weight))
            average[name] = (1 - share) * before + share * weight.detach()
    return losses, average


def engine_losses(
    world: int, runs: list[dict[str, Any]], folder: Path
) -> list[tuple[list[float], dict[str, torch.Tensor]]]:
    """Run each of ``runs`` (stage, kind, dtype, accumulation, ...) in ``world`` processes."""
    shared = any(run.get("sequence_parallel", 1) > 1 for run in runs)  # which DeepSpeed keeps in globals
    in_processes(world, _runs, runs, str(folder), alone=shared)
    return [torch.load(folder / f"run_{index}.pt") for index in range(len(runs))]


def _runs(rank: int, world: int, runs: list[dict[str, Any]], folder: str) -> None:
    for index, run in enumerate(runs):
        result = _train(rank, world, **run)
        if rank == 0:
            torch.save(result, Path(folder) / f"run_{index}.pt")


def _train(
    rank: int,
    world: int,
    *,
    stage: int,
    kind: str = "adamw",
    dtype: str = "float32",
    config: dict[str, Any] | None = None,
    accumulation: int = 1,
    autocast: bool = False,
    sequence_parallel: int = 1,
    ema_decay: float = 0.0,
    training: Training | None = None,
    adapter: dict[str, Any] | None = None,
    load: str | None = None,
    written_by: int | None = None,
    save: str | None = None,
    change: bool = False,
    first: int = 0,
    last: int = STEPS,
) -> tuple[list[float], dict[str, torch.Tensor]]:
    replicas = world // sequence_parallel
    objective = NextToken(shared_by=sequence_parallel, part=rank % sequence_parallel)
    micro_rows = ROWS // replicas // accumulation
    model = tiny_model()
    ready_for_training(model, training or Training())
    if adapter is not None:
        model = adapted(model, adapter)
    if change:
        with torch.no_grad():
            next(one for one in model.parameters() if not one.requires_grad).view(-1)[3] += 1e-3
    engine = Engine(
        model,
        optimizer=settings_of(kind),
        deepspeed=DeepSpeed(stage=stage, autocast=autocast, config=config or {}),
        batch=derive_batch(ROWS * LENGTH, LENGTH, replicas, micro_rows),
        device=torch.device("cpu"),
        dtype=getattr(torch, dtype),
        ema_decay=ema_decay,
        sequence_parallel=sequence_parallel,
    )
    if load:
        engine.load(Path(load), written_by or world)
    losses = []
    for step in range(first, last):
        mine = global_batch(step).chunk(replicas)[rank // sequence_parallel]
        loss = torch.zeros((), dtype=torch.float64)
        for micro in mine.split(micro_rows):
            share = objective.loss(engine.forward, micro, ROWS * (LENGTH - 1))
            engine.backward(share)
            loss += share.detach()
        outcome = engine.step(learning_rate_share(SCHEDULE, Plan(STEPS), step))
        assert outcome.applied and outcome.gradient_norm > 0
        dist.all_reduce(loss)
        losses.append(loss.item())
    if save:
        engine.save(Path(save), {"step": last})
    weights = engine.full_weights()
    if ema_decay:
        with engine.averaged(True):
            weights |= {f"average.{name}": value for name, value in engine.full_weights().items()}
        again = engine.full_weights()
        assert all(torch.equal(again[name], weights[name]) for name in again)
    engine.close()
    return losses, weights
