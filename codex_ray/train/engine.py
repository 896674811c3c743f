"""The engine: DeepSpeed's ZeRO stages 0 to 3 behind the few calls that the loop makes.

DeepSpeed is told the accumulation and the precision; the schedule, the data and the clock stay
with the loop. On CPUs the process group is gloo and no operator is compiled.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from codex_ray.config.check import BatchPlan
from codex_ray.config.train import DeepSpeed, Optimizer
from codex_ray.errors import CodexRayError
from codex_ray.files import SMALLEST_FREE_BYTES
from codex_ray.imports import no_collection
from codex_ray.model.adapter import bare
from codex_ray.model.parametrisation import width_multiplier
from codex_ray.train import frozen
from codex_ray.train.average import Average
from codex_ray.train.held import HeldWeights
from codex_ray.train.muon import MuonAdamW
from codex_ray.train.optimizer import build_optimizer, full_shape, partition_layout, sharded_layout
from codex_ray.train.recut import Layout, recut
from codex_ray.train.sequence import share_attention


@dataclass(frozen=True)
class StepOutcome:
    """What one optimizer step did: the gradient norm before clipping, and whether it was applied."""

    gradient_norm: float
    applied: bool


def import_deepspeed(device: str) -> Any:
    """Import DeepSpeed quietly, with nothing compiled on the way.

    It would try a C compiler on its operators at every first start, and build the one for shared memory;
    those that a configuration asks for are built all the same. The accelerator is named before the import.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if device.startswith("cuda") else "cpu")
    for name in ("DeepSpeed", "deepspeed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    warnings.filterwarnings("ignore", category=FutureWarning, module="deepspeed")
    with no_collection(), _without_mlflow(), _without_compiler():
        import deepspeed
        import deepspeed.runtime.zero.muon.original_muon

    deepspeed.ops.__compatible_ops__ = {}
    deepspeed.utils.logger.setLevel(logging.ERROR)
    return deepspeed


@contextmanager
def _without_mlflow() -> Iterator[None]:
    """Keep DeepSpeed's tuner, which training does not use, from importing MLflow for a second."""
    if "mlflow" in sys.modules:
        yield
        return
    sys.modules["mlflow"] = None  # type: ignore[assignment]  # as Python says that there is none
    try:
        yield
    finally:
        del sys.modules["mlflow"]


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Keep DeepSpeed's own Muon, which training does not use, from importing the compiler for a second."""
    compiler: Any = torch.compile
    torch.compile = lambda function: function  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compiler


class Engine:
    """A model, its optimizer and their ZeRO partitioning.

    Args:
        model: in fp32; the engine casts it to ``dtype`` and keeps fp32 masters, or with
            ``deepspeed.autocast`` leaves it as it is and casts what matrix products take.
        optimizer: optimizer settings; ``deepspeed``: stage, buckets and further keys.
        batch: rows per worker and accumulation.
        device: torch device; ``dtype``: compute precision.
        sequence_parallel: ranks, one after another, that share every sequence between them.
        ema_decay: decay of an average of the weights that is kept beside them; 0 keeps none.
    """

    def __init__(
        self,
        model: Any,
        *,
        optimizer: Optimizer,
        deepspeed: DeepSpeed,
        batch: BatchPlan,
        device: torch.device,
        dtype: torch.dtype,
        ema_decay: float = 0.0,
        sequence_parallel: int = 1,
    ) -> None:
        self.stage = deepspeed.stage
        autocast = deepspeed.autocast and dtype != torch.float32
        self.clip_norm = optimizer.clip_norm
        self._micro_rows = batch.micro_rows
        self._accumulation = batch.accumulation
        library = import_deepspeed(device.type)
        library.init_distributed(
            dist_backend="nccl" if device.type == "cuda" else "gloo", auto_mpi_discovery=False, verbose=False
        )
        groups = None
        if sequence_parallel > 1:
            groups = share_attention(model, sequence_parallel, batch.micro_rows)
        self._replicas = dist.get_world_size() // sequence_parallel
        width = width_multiplier(getattr(bare(model), "config", None))  # `plan` times modules without one
        built = build_optimizer(optimizer, model.named_parameters(), dtype, width=width)
        self._engine, self._optimizer, _, _ = library.initialize(
            model=model,
            optimizer=built,
            mpu=groups,
            config=_configuration(deepspeed, batch, optimizer.clip_norm, dtype, autocast=autocast),
        )
        self._inner = built
        self._bind_layouts()
        self._held: list[HeldWeights] = []
        self._average = Average(ema_decay, built, self._masters, self._refresh) if ema_decay else None
        self.begin(batch.accumulation)

    @property
    def module(self) -> nn.Module:
        """The model, for what needs no gradient."""
        module: nn.Module = self._engine.module
        return module

    def forward(self, **inputs: Any) -> Any:
        """Run the model as the engine must see it, so that ZeRO-3 gathers and releases."""
        return self._engine(**inputs)

    def begin(self, micro_batches: int) -> None:
        """Say how many micro-batches the next update adds up; until then it is as many as in the plan."""
        if micro_batches != self._accumulation:
            self._engine.set_train_batch_size(micro_batches * self._micro_rows * self._replicas)
            self._accumulation = micro_batches
        self._left = micro_batches
        self._announce()

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of this rank's share of the global loss.

        ``loss`` is already divided by the global token count; the engine's own division by
        accumulation and by workers is undone here, so that every token weighs the same
        whatever the number of either.
        """
        self._engine.backward(loss * float(self._accumulation * self._replicas))
        if self._left > 1:
            self._engine.step()  # which only counts
            self._left -= 1
            self._announce()

    def step(self, learning_rate_share: float) -> StepOutcome:
        """Clip, guard against non-finite gradients, and update at this share of the peak rates."""
        for group in self._inner.param_groups:
            group["lr"] = group["peak"] * learning_rate_share
        norm = self._whole_gradient_norm() if self.stage == 0 else None
        if norm is not None and not math.isfinite(norm):
            self._engine.optimizer.zero_grad()
            self.begin(self._accumulation)
            return StepOutcome(norm, False)
        self._engine.step()
        self.begin(self._accumulation)
        if norm is None:
            norm = float(self._engine.get_global_grad_norm())
        applied = bool(self._engine.was_step_applied())
        if applied:
            for following in (self._average, *self._held):
                if following is not None:
                    following.update()
        return StepOutcome(norm, applied)

    @contextmanager
    def averaged(self, wanted: bool) -> Iterator[None]:
        """Let the average of the weights stand in for them, where there is one; every rank takes part."""
        if not wanted or self._average is None:
            yield
            return
        self._average.exchange()
        yield
        self._average.exchange()

    def hold(self, rate: float = 0.0) -> HeldWeights:
        """Return a second set of weights beside those that train, for a teacher or a reference.

        They follow at ``rate`` with every update that is applied; 0 keeps them as they are.

        To be made before :meth:`load`; see :class:`HeldWeights`.
        """
        key = f"held_{len(self._held)}"
        self._held.append(HeldWeights(self._inner, self._masters, self._refresh, rate=rate, key=key))
        return self._held[-1]

    def learning_rates(self) -> list[float]:
        """Current rate of each parameter group."""
        return [group["lr"] for group in self._inner.param_groups]

    def save(
        self, folder: Path, state: dict[str, Any], write: Callable[[Any, Path], None] = torch.save
    ) -> None:
        """Write weights, optimizer and ``state`` into ``folder``; every rank takes part.

        What each file is to hold goes to ``write``, with its path. Tensors in it are the engine's own, which
        the next step changes. Weights that do not train are left out: only their checksum is written.
        """
        still = frozen.frozen_names(self.module)
        state = state | {frozen.KEY: self._checksum} if still else state
        writer = self._engine.checkpoint_engine
        writer.save = lambda state_dict, path: write(frozen.without(still, state_dict), Path(path))
        try:
            self._engine.save_checkpoint(
                str(folder),
                tag="engine",
                client_state=state,
                save_latest=False,
                exclude_frozen_parameters=bool(still),
            )
        finally:
            del writer.save

    def load(self, folder: Path, written_by: int) -> dict[str, Any]:
        """Read what :meth:`save` wrote with ``written_by`` workers, any number; returns ``state``.

        Rates, decay, momentum and the like stay those of the present settings. Every rank takes part.

        Raises:
            CodexRayError: ZeRO was told to lay parameters out by the number of workers, the disk is full, or
                the weights that do not train are others than those beside which it was written.
        """
        still = frozen.frozen_names(self.module)
        present = [{k: v for k, v in group.items() if k != "params"} for group in self._inner.param_groups]
        with self._fitting(folder, written_by) as fitting:
            _, state = self._engine.load_checkpoint(
                str(fitting), tag="engine", custom_load_fn=frozen.load_beside(still) if still else None
            )
        if state.get(frozen.KEY, self._checksum) != self._checksum:
            raise CodexRayError(
                f"checkpoint {folder.name} was trained on another base than the present one; resume it with "
                "the base that the run began with"
            )
        for group, ours in zip(self._inner.param_groups, present, strict=True):
            group.update(ours)
        if hasattr(self._optimizer, "clip_grad"):  # which stages 1 and 2 save as well
            self._optimizer.clip_grad = self.clip_norm
        self._bind_layouts()
        for held in self._held:
            held.begin()
        return dict(state)

    @cached_property
    def _checksum(self) -> int:
        """Of the weights that do not train; every rank takes part the first time."""
        return frozen.checksum(self.module, self._whole)

    def full_weights(self) -> dict[str, Tensor]:
        """Gather fp32 weights and buffers by name, on the CPU; every rank takes part.

        Frozen weights have no fp32 masters: they come in the precision of training.
        """
        weights: dict[str, Tensor] = {}
        for name, parameter in self.module.named_parameters():
            full = self._whole(parameter).detach().float().cpu()
            weights[name] = full.clone().view(full_shape(parameter))
        for name, buffer in self.module.named_buffers():
            weights[name] = buffer.detach().cpu().clone()
        return weights

    def trained_weights(self) -> dict[str, Tensor]:
        """Gather the fp32 weights that are trained, by name, on the CPU; every rank takes part."""
        return {
            name: self._whole(parameter).detach().float().cpu().clone().view(full_shape(parameter))
            for name, parameter in self.module.named_parameters()
            if parameter.requires_grad
        }

    def close(self) -> None:
        """Release the engine's hooks and buffers."""
        self._engine.destroy()

    @contextmanager
    def _fitting(self, folder: Path, written_by: int) -> Iterator[Path]:
        """Give a folder that this number of workers can load; one made for it goes afterwards."""
        rank, world = dist.get_rank(), dist.get_world_size()
        if self.stage == 0 or written_by == world:
            yield folder
            return
        zero = self._optimizer
        padded = any(any(group) for group in getattr(zero, "round_robin_bit16_padding", ()))
        unlike = ("round_robin_gradients", "elastic_checkpoint")
        if padded or any(getattr(zero, name, False) for name in unlike):
            raise CodexRayError(
                f"checkpoint {folder.name} was written by {written_by} workers, and round_robin_gradients, "
                "parameter_alignment and elastic_checkpoint make its layout depend on them; resume it with "
                f"cluster.workers={written_by}"
            )
        staging = folder.with_name(f".{folder.name}_for_{world}.partial")
        if rank == 0:
            shutil.rmtree(staging, ignore_errors=True)
            (staging / "engine").mkdir(parents=True)
        dist.barrier()
        layout = self._layout()
        try:
            recut(folder / "engine", staging / "engine", layout, rank=rank, world=world, old_world=written_by)
        except (OSError, RuntimeError) as error:  # torch's writer has no errno
            if shutil.disk_usage(folder).free >= SMALLEST_FREE_BYTES:
                raise
            raise CodexRayError(
                f"the disk is full while {folder.name} is cut anew for {world} workers; free as much as the "
                "checkpoint takes and run it again with resume=auto"
            ) from error
        dist.barrier()
        yield staging
        dist.barrier()
        if rank == 0:
            shutil.rmtree(staging)

    def _layout(self) -> Layout:
        """How ZeRO has cut the parameters (names private to DeepSpeed 0.19.8, pinned)."""
        zero = self._optimizer
        if self.stage == 3:
            shapes = self._engine._get_zero_param_shapes()
            return Layout(shapes=tuple({n: tuple(s) for n, s in group.items()} for group in shapes))
        lengths = (sum(part.numel() for part in group) for group in zero.round_robin_bit16_groups)
        return Layout(tuple(lengths), tuple(int(size) for size in zero.partition_size))

    def _announce(self) -> None:
        """Tell DeepSpeed whether the next micro-batch is the last before an update.

        Left to itself it divides the count of all micro-batches, which fails where their number changes.
        """
        self._engine.set_gradient_accumulation_boundary(self._left == 1)

    def _masters(self) -> list[Tensor]:
        """The fp32 weights that this rank updates (names private to DeepSpeed 0.19.8, pinned)."""
        if self.stage == 0:
            return [parameter for group in self._inner.param_groups for parameter in group["params"]]
        zero = self._optimizer
        flat = zero.fp32_partitioned_groups_flat if self.stage == 3 else zero.single_partition_of_fp32_groups
        return list(flat)

    def _refresh(self) -> None:
        """Make what the model computes with from the fp32 weights again, as after an update."""
        zero = self._optimizer
        if self.stage in (1, 2):
            zero.update_lp_params()
        elif self.stage == 3:
            zero._partition_all_parameters()
            for group in range(len(zero.fp32_partitioned_groups_flat)):
                zero._reassign_or_swap_out_partitioned_parameters(group)
            if zero.persistent_parameters:
                zero.persistent_parameters[0].all_gather(zero.persistent_parameters)
            zero.invalidate_secondary_tensor()

    def _whole(self, parameter: nn.Parameter) -> Tensor:
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_get_full_fp32_param

        if self.stage == 0:
            return parameter.data
        if parameter.requires_grad:
            master: Tensor = safe_get_full_fp32_param(parameter)
            return master
        with GatheredParameters([parameter], enabled=self.stage == 3):
            return parameter.data.clone()

    def _whole_gradient_norm(self) -> float:
        """Norm of the averaged gradients, which stage 0 holds whole on every rank and does not report."""
        gradients = [parameter.grad for parameter in self.module.parameters() if parameter.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def _bind_layouts(self) -> None:
        """Tell Muon how ZeRO has cut its matrices (names private to DeepSpeed 0.19.8, pinned)."""
        if not isinstance(self._inner, MuonAdamW) or self.stage == 0:
            return
        zero, world = self._optimizer, dist.get_world_size()
        if self.stage == 3:
            for index, parameters in enumerate(zero.fp16_groups):
                if self._inner.param_groups[zero.sub_group_to_group_id[index]]["muon"]:
                    shapes = [full_shape(parameter) for parameter in parameters]
                    flat = zero.fp32_partitioned_groups_flat[index]
                    self._inner.partitioned(flat, sharded_layout(shapes, world))
            return
        for index, group in enumerate(self._inner.param_groups):
            if group["muon"]:
                shapes = [full_shape(parameter) for parameter in zero.round_robin_bit16_groups[index]]
                offsets = zero.round_robin_bit16_offsets[index]
                size = int(zero.partition_size[index])
                flat = zero.single_partition_of_fp32_groups[index]
                self._inner.partitioned(flat, partition_layout(shapes, offsets, size, world))


def _configuration(
    settings: DeepSpeed, batch: BatchPlan, clip_norm: float, dtype: torch.dtype, *, autocast: bool
) -> dict[str, Any]:
    configuration: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": batch.micro_rows,
        "gradient_accumulation_steps": batch.accumulation,
        "train_batch_size": batch.global_rows,
        "gradient_clipping": clip_norm,
        "steps_per_print": 10**12,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # which would be compiled when a run starts
        "bf16": {"enabled": dtype == torch.bfloat16 and not autocast},
        "fp16": {"enabled": dtype == torch.float16},
        "torch_autocast": {"enabled": autocast, "dtype": str(dtype).removeprefix("torch.")},
        "zero_optimization": {
            "stage": settings.stage,
            "reduce_bucket_size": settings.bucket_elements,
            "allgather_bucket_size": settings.bucket_elements,
            "overlap_comm": False,
        },
    }
    for key, value in settings.config.items():
        known = configuration.get(key)
        configuration[key] = (
            {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
        )
    return configuration
