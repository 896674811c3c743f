"""Measuring beside training: a spare worker measures a copy of the weights while the steps go on.

All ranks gather the weights, rank 0 hands them to a Ray task, and takes the figures when they come. At most
one measurement of a kind is under way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from codex_ray.config.check import BatchPlan
from codex_ray.corpus.manifest import Manifest
from codex_ray.errors import CodexRayError
from codex_ray.model.adapter import bare
from codex_ray.model.load import empty_model
from codex_ray.train.documents import Rows
from codex_ray.train.engine import Engine
from codex_ray.train.objectives.next_token import NextToken
from codex_ray.train.saving import whole_model
from codex_ray.train.validation import Validator

LOOK_SECONDS = 1.0
END_SECONDS = 60.0  # longest wait for a measurement when training ends


@dataclass(frozen=True)
class Measurement:
    """What a spare worker needs besides the weights.

    Attributes:
        corpus: the corpus folder.
        rows: validation rows, chosen as ``world`` workers choose them.
        config: the model's configuration.
        dtype: torch's name of the precision; ``autocast``: whether only matrix products have it.
        documents: what the rows' documents are to this run.
        threads: compute threads.
    """

    corpus: Path
    rows: int
    world: int
    batch: BatchPlan
    config: Any
    dtype: str
    autocast: bool
    documents: Rows | None
    threads: int


@dataclass(frozen=True)
class _Whole:
    """A model on one worker, as :class:`Validator` wants an engine."""

    module: nn.Module

    def forward(self, **inputs: Any) -> Any:
        return self.module(**inputs)


class Spare:
    """Measurements of one kind by a spare worker; all ranks make one and call :meth:`begin` together.

    Args:
        measure: what the spare worker does with the weights; it travels there.
        done: what a step then is, for sentences: validated, or evaluated.
        take: is given the step and what came of it, on rank 0.
        note: tells the user one sentence.
        gpus: GPUs of the spare worker.
    """

    def __init__(
        self,
        measure: Callable[[Mapping[str, Any]], Any],
        done: str,
        take: Callable[[int, Any], None],
        note: Callable[[str], None],
        *,
        gpus: float,
    ) -> None:
        self._measure, self._done, self._take, self._note, self._gpus = measure, done, take, note, gpus
        self._pending: tuple[int, Any] | None = None
        self._looked = 0.0

    @property
    def awaited(self) -> set[int]:
        """The step under way, if there is one."""
        return set() if self._pending is None else {self._pending[0]}

    def begin(self, engine: Engine, step: int) -> None:
        """Have the present weights measured; left out where the measurement before is not done."""
        self.look(now=True)
        free = torch.tensor([int(self._pending is None)], device=next(engine.module.parameters()).device)
        dist.broadcast(free, src=0)
        if not free.item():
            self._note(
                f"step {step} is not {self._done}, for the spare worker is not done with an earlier one; "
                "leave a CPU free for it (and a GPU, where workers have one), or measure less often"
            )
            return
        weights = engine.full_weights()
        if dist.get_rank() == 0:
            if bare(engine.module) is not engine.module:  # adapters
                weights = dict(whole_model(engine.module, weights).state_dict())
            self._pending = step, self._submit(weights)

    def look(self, *, now: bool = False, seconds: float = 0.0) -> None:
        """Write down figures that have come, after waiting for ``seconds`` at the most."""
        if self._pending is None or not (now or time.monotonic() - self._looked > LOOK_SECONDS):
            return
        import ray

        self._looked = time.monotonic()
        step, task = self._pending
        done, _ = ray.wait([task], timeout=seconds)
        if not done:
            return
        try:
            found = ray.get(task)
        except ray.exceptions.RayError as error:
            self._note(f"step {step} is not {self._done}: {str(error).strip().splitlines()[-1][:200]}")
        else:
            self._take(step, found)
        self._pending = None  # until here its checkpoint is kept

    def close(self) -> None:
        """Wait for what is under way, as long as that may take at the end."""
        self.look(now=True, seconds=END_SECONDS)
        if self._pending is not None:
            self._note(f"step {self._pending[0]} is not {self._done}: no figures within {END_SECONDS:g} s")
            self._pending = None

    def drop(self) -> None:
        """Write down what has come and give up what is under way, where training does not wait for it."""
        self.look(now=True)
        if self._pending is None:
            return
        import ray

        step, task = self._pending
        ray.cancel(task, force=True)
        self._pending = None
        self._note(f"step {step} is not {self._done}: training stopped before the spare worker was done")

    def _submit(self, weights: Mapping[str, torch.Tensor]) -> Any:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        # Not within the training workers' own reservation, which they fill.
        outside = PlacementGroupSchedulingStrategy(placement_group=None)
        task = ray.remote(num_cpus=1, num_gpus=self._gpus, scheduling_strategy=outside)(_measured)
        return task.remote(self._measure, {name: value.numpy() for name, value in weights.items()})


def _measured(measure: Callable[[Mapping[str, Any]], Any], weights: Mapping[str, Any]) -> Any:
    return measure(weights)  # Ray takes functions alone, and no partial ones


def measure(measurement: Measurement, weights: Mapping[str, Any]) -> dict[str, float]:
    """Measure weights on validation rows, in a process of its own."""
    torch.set_num_threads(measurement.threads)
    if not dist.is_initialized():  # the objective and the validator add up over workers, here one
        alone = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=alone, rank=0, world_size=1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype, autocast = getattr(torch, measurement.dtype), measurement.autocast
    model = model_of(measurement.config, weights, torch.float32 if autocast else dtype)
    whole = _Whole(model.to(device))
    manifest = Manifest.load(measurement.corpus)
    validator = Validator(manifest, measurement.rows, measurement.batch, device, chosen_for=measurement.world)
    with torch.autocast(device.type, dtype, enabled=autocast and dtype != torch.float32):
        return validator.measure(whole, NextToken(measurement.documents))


def model_of(config: Any, weights: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """Return a model with weights that were handed over; its buffers stay as they are, as DeepSpeed has it.

    Raises:
        CodexRayError: some are missing.
    """
    model = empty_model(config)
    missing = {name for name, _ in model.named_parameters()} - weights.keys()
    if missing:
        raise CodexRayError(f"{min(missing)} is not among the weights that were handed over")
    model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()}, strict=False)
    model.tie_weights()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model
