"""Objectives through our engine at each ZeRO stage in fresh gloo processes, and by hand in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch import Tensor

from codex_ray.config.check import derive_batch
from codex_ray.config.train import DeepSpeed
from codex_ray.model import CodexRayForSequenceClassification
from codex_ray.model.head import TokenHead, attach_value_head
from codex_ray.train.engine import Engine
from codex_ray.train.held import HeldWeights
from codex_ray.train.objectives.batching import deal
from codex_ray.train.objectives.demonstrated import Completed, Demonstrated
from codex_ray.train.objectives.distillation import SelfDistillation
from codex_ray.train.objectives.divergence import Divergence
from codex_ray.train.objectives.grpo import GRPO
from codex_ray.train.objectives.objective import nothing_added
from codex_ray.train.objectives.ppo import PPO
from codex_ray.train.objectives.preference import DPO
from codex_ray.train.objectives.reward import BradleyTerry
from codex_ray.train.objectives.sequences import Sequences
from codex_ray.train.optimizer import build_optimizer
from tests.integration.engine_runs import LENGTH, ROWS, VOCABULARY, adapted, settings_of, tiny_model
from tests.integration.processes import in_processes

STEPS, RATE, MOST_TOKENS = 4, 0.3, 40
KINDS = ("sdft", "sdft top-k", "grpo", "ppo", "dpo", "reward")
ADAPTER_OFF = "dpo, adapter off"
PAIRED = ("dpo", "reward", ADAPTER_OFF)


def rows_of(kind: str, step: int) -> list[Any]:
    """A global batch of eight rows of unequal length, as lists, the same wherever it is made."""
    generator = torch.Generator().manual_seed(step)

    def some(least: int, most: int) -> list[int]:
        length = int(torch.randint(least, most, (), generator=generator))
        return torch.randint(4, VOCABULARY, (length,), generator=generator).tolist()

    rows: list[Any] = [(some(2, 6), some(6, 14), some(1, 9)) for _ in range(8)]
    if kind in PAIRED:  # both answers of a pair have one prompt
        rows = [(rows[place - place % 2][0], *row[1:]) for place, row in enumerate(rows)]
    return rows


def batch_of(kind: str, step: int, rank: int, world: int) -> Any:
    """This rank's rows, of which there may be fewer than another's."""
    rows = rows_of(kind, step)
    unit = 2 if kind in PAIRED else 1
    lengths = [len(row[1]) + len(row[2]) for row in rows[::unit]]
    mine = [rows[unit * place + k] for place in deal(lengths, world)[rank] for k in range(unit)]
    if kind.startswith("sdft"):
        return Demonstrated.of([Completed(*row) for row in mine], window=64)[0]
    numbers = [float(sum(row[2]) % 3) for row in mine]
    return Sequences.of_completions(
        [row[0] for row in mine],
        [row[2] for row in mine],
        logprobs=[[-4.0 - 0.01 * token for token in row[2]] for row in mine],
        rows={"advantages": [number - 1.0 for number in numbers], "rewards": numbers},
    )


def objective_of(kind: str, model: Any, head: Any, held: HeldWeights) -> Any:
    if kind.startswith("sdft"):
        divergence = Divergence(0.0, top_k=9 if kind == "sdft top-k" else 0)
        return SelfDistillation(head, held.in_place, divergence=divergence)
    if kind == "reward":
        return BradleyTerry(centring=0.1)
    if kind == "grpo":
        return GRPO(head, kl=0.5, reference=held.in_place)
    if kind == "ppo":
        return PPO(head, kl=0.1, reference=held.in_place)
    return DPO(head, reference=model.disable_adapter if kind == ADAPTER_OFF else held.in_place)


def model_of(kind: str, adapter: bool) -> Any:
    if kind == "reward":
        config = tiny_model().config
        config.num_labels = 1
        torch.manual_seed(3)
        model = CodexRayForSequenceClassification(config).float()
        lora = LoraConfig(task_type="SEQ_CLS", r=4, target_modules="all-linear")
        return get_peft_model(model, lora) if adapter else model
    model = adapted(tiny_model(), {}) if adapter else tiny_model()
    if kind == "ppo":
        attach_value_head(model)
    return model


def micros_of(kind: str, batch: Any, at_least: int) -> list[Any]:
    options = {"unit": 2} if kind in PAIRED else {}
    micros: list[Any] = batch.split(MOST_TOKENS, at_least=at_least, **options)
    return micros


def plain_run(kind: str, adapter: bool) -> tuple[list[float], dict[str, float]]:
    """Losses and last figures in one process, without an engine."""
    torch.set_num_threads(1)
    model = model_of(kind, adapter)
    head = None if kind == "reward" else TokenHead(model)
    optimizer = build_optimizer(settings_of("adamw"), model.named_parameters(), torch.float32)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    held = HeldWeights(
        optimizer, lambda: trained, lambda: None, rate=RATE if kind.startswith("sdft") else 0.0
    )
    objective, losses = objective_of(kind, model, head, held), []
    for step in range(STEPS):
        micros = objective.prepare(model, micros_of(kind, batch_of(kind, step, 0, 1), 1), nothing_added)
        total, whole = max(1, sum(objective.weight(micro) for micro in micros)), 0.0
        for micro in micros:
            loss = objective.loss(model, micro, total)
            loss.backward()
            whole += loss.item()
        torch.nn.utils.clip_grad_norm_(trained, 0.5)
        optimizer.step()
        optimizer.zero_grad()
        held.update()
        losses.append(whole)
        figures = objective.figures.means(objective.figures.take())
    return losses, figures


def engine_runs(world: int, runs: list[dict[str, Any]], folder: Path) -> list[Any]:
    """Do ``runs`` (kind, stage, adapter, ...) in ``world`` processes."""
    in_processes(world, _runs, runs, str(folder))
    return [torch.load(folder / f"run_{index}.pt") for index in range(len(runs))]


def _runs(rank: int, world: int, runs: list[dict[str, Any]], folder: str) -> None:
    for index, run in enumerate(runs):
        result = _train(rank, world, **run)
        if rank == 0:
            torch.save(result, Path(folder) / f"run_{index}.pt")


def added_up(sums: Tensor) -> Tensor:
    whole = sums.to(torch.float64)
    dist.all_reduce(whole)
    return whole


def _train(
    rank: int,
    world: int,
    *,
    kind: str,
    stage: int,
    adapter: bool = False,
    dtype: str = "float32",
    logits_at_once: int = 2**24,
    load: str | None = None,
    save: str | None = None,
    first: int = 0,
    last: int = STEPS,
) -> Any:
    model = model_of(kind, adapter)
    head = None if kind == "reward" else TokenHead(model, logits_at_once=logits_at_once)
    engine = Engine(
        model,
        optimizer=settings_of("adamw"),
        deepspeed=DeepSpeed(stage=stage),
        batch=derive_batch(ROWS * LENGTH, LENGTH, world, ROWS // world),
        device=torch.device("cpu"),
        dtype=getattr(torch, dtype),
    )
    if load:
        with torch.no_grad():  # what a resumed run begins with is nothing to hold on to
            for master in engine._masters():
                master.fill_(0.5)
    held = engine.hold(RATE if kind.startswith("sdft") else 0.0)
    objective, losses = objective_of(kind, model, head, held), []
    if load:
        engine.load(Path(load), world)
    for step in range(first, last):
        batch = batch_of(kind, step, rank, world)
        most = torch.tensor(len(micros_of(kind, batch, 1)))
        dist.all_reduce(most, dist.ReduceOp.MAX)
        micros = objective.prepare(engine.forward, micros_of(kind, batch, int(most)), added_up)
        assert len(micros) == int(most)
        weight = torch.tensor([float(sum(objective.weight(micro) for micro in micros))])
        total = max(1, int(added_up(weight)))
        engine.begin(len(micros))
        loss = torch.zeros((), dtype=torch.float64)
        for micro in micros:
            share = objective.loss(engine.forward, micro, total)
            engine.backward(share)
            loss += share.detach()
        assert engine.step(1.0).applied
        losses.append(float(added_up(loss)))
        figures = objective.figures.means(added_up(torch.tensor(objective.figures.take())).tolist())
    if save:
        engine.save(Path(save), {"step": last})
    engine.close()
    return losses, figures
