"""One optimizer step of a decoder on one device, without the stack: how long it takes and what it holds.

Shape legend: B rows, S sequence.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codex_ray.config.model import Model
from codex_ray.model import build_model
from codex_ray.train.objectives.next_token import NextToken

WARM_UP, REPEATS = 4, 10


@dataclass(frozen=True)
class Shape:
    """What one step works on."""

    vocabulary: int
    length: int
    rows: int
    device: str

    @property
    def tokens(self) -> int:
        """Tokens of one step."""
        return self.rows * self.length


@dataclass(frozen=True)
class Measured:
    """Median seconds of one step, and the most memory that was allocated, in bytes (0 on a CPU)."""

    seconds: float
    bytes: int


class BareTrainer:
    """What a person would write by hand: bf16 weights, fp32 masters, clipping, fused AdamW."""

    def __init__(self, model: Any, learning_rate: float, clip: float) -> None:
        self.model, self._clip, self._objective = model, clip, NextToken()
        self._parameters = list(model.parameters())
        self._masters = [parameter.detach().clone().requires_grad_() for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.data = parameter.data.bfloat16()
        self._optimizer = torch.optim.AdamW(self._masters, lr=learning_rate, fused=True)

    def step(self, input_ids_BS: Tensor, micro_rows: int) -> Tensor:
        """Do one optimizer step and return its loss."""
        total = self._objective.weight(input_ids_BS)
        loss = torch.zeros((), device=input_ids_BS.device)
        for micro_BS in input_ids_BS.split(micro_rows):
            share = self._objective.loss(self.model, micro_BS, total)
            share.backward()
            loss += share.detach()
        for master, parameter in zip(self._masters, self._parameters, strict=True):
            assert parameter.grad is not None
            master.grad, parameter.grad = parameter.grad.float(), None
        torch.nn.utils.clip_grad_norm_(self._masters, self._clip)
        self._optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_([parameter.data for parameter in self._parameters], self._masters)
        return loss


def fresh_model(model: Model, shape: Shape, compiled: bool = False) -> Any:
    """Return a newly initialised decoder on the device, its sublayers compiled where asked."""
    built: Any = build_model(
        model,
        vocabulary_size=shape.vocabulary,
        sequence_length=shape.length,
        seed=1,
        special_ids={"pad": 3, "bos": 1, "eos": 2},
    ).to(shape.device)
    if compiled:
        built.model.compile_sublayers()
    return built


def draw(shape: Shape, seed: int) -> Tensor:
    """Return random rows of tokens, [B, S]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(4, shape.vocabulary, (shape.rows, shape.length), generator=generator).to(
        shape.device
    )


def measure(model: Model, shape: Shape, compiled: bool = False) -> Measured:
    """Time whole steps of a fresh model on random tokens, one micro-batch each."""
    on_gpu = shape.device.startswith("cuda")
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    trainer = BareTrainer(fresh_model(model, shape, compiled), 1e-4, 1.0)
    batches = [draw(shape, seed) for seed in range(4)]
    seconds = []
    for turn in range(WARM_UP + REPEATS):
        started = time.perf_counter()
        trainer.step(batches[turn % len(batches)], shape.rows)
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    held = torch.cuda.max_memory_allocated() if on_gpu else 0
    return Measured(statistics.median(seconds[WARM_UP:]), held)


def profile(model: Model, shape: Shape, lines: int = 30) -> str:
    """Return a table of where one step's time goes, by operator, the longest on the device first."""
    trainer, batch = BareTrainer(fresh_model(model, shape), 1e-4, 1.0), draw(shape, 0)
    for _ in range(3):
        trainer.step(batch, shape.rows)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if shape.device.startswith("cuda"):
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as recorded:
        trainer.step(batch, shape.rows)
        if shape.device.startswith("cuda"):
            torch.cuda.synchronize()
    order = "self_cuda_time_total" if shape.device.startswith("cuda") else "self_cpu_time_total"
    return str(recorded.key_averages().table(sort_by=order, row_limit=lines, max_name_column_width=60))
