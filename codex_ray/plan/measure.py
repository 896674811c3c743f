"""Measuring this machine at a run's own shapes: one process per worker, as the run would have, all at once.

Workers share memory, caches and cores: what one measures alone is not what it gets. The processes are started
with ``python -m codex_ray.plan.measure RANK WORLD PORT``; the task is on their standard input.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from codex_ray.cluster.ray_node import free_ports
from codex_ray.config.check import BatchPlan
from codex_ray.config.fields import build
from codex_ray.config.train import Pretrain
from codex_ray.errors import CodexRayError
from codex_ray.files import sha256_of

LONGEST_SECONDS = 600.0
PART_SECONDS, ROUNDS = 0.1, 3  # about how long each part is repeated, and how often all parts are
SETS = 4  # of inputs, in turn, so that a cache holds no more of them than while training
DISK_BYTES = 64 * 2**20
LAYERS = (1, 3)  # of the models that memory is measured with
STEPS = 3  # a heap grows until it has seen all sizes in all orders
SMALL, LARGE = (48, 64), (8, 2**18)  # tensors and their sizes, which tell an engine's two costs apart


@dataclass(frozen=True)
class Measured:
    """What one worker of this machine takes, the slowest of them.

    Attributes:
        parts: seconds of each part of a micro-batch, once.
        micro: seconds of the engine per tensor and per number, for a micro-batch that is not the last.
        last: the same for the last micro-batch of a step with the update, collectives included.
        peaks: most bytes of a process that trains models of the run's shape with one and with three layers.
        disk: bytes/s of writing a file and hashing it.
    """

    parts: dict[str, float]
    micro: tuple[float, float]
    last: tuple[float, float]
    peaks: tuple[float, float]
    disk: float


def measure(
    settings: Pretrain,
    model: dict[str, Any],
    batch: BatchPlan,
    length: int,
    dtype: str,
    environment: dict[str, str],
) -> Measured:
    """Start a process per worker and return the slowest one's figures.

    Args:
        settings: of the run.
        model: the decoder's configuration as plain data.
        batch: rows of a micro-batch and accumulation; ``length``: tokens of a row.
        dtype: compute precision.
        environment: what workers are started with.

    Raises:
        CodexRayError: a process failed or took too long; the sentence has its last line.
    """
    run = {field.name: asdict(settings)[field.name] for field in fields(Pretrain)}  # no more than a run's
    task = {
        "settings": run,
        "model": model,
        "rows": batch.micro_rows,
        "accumulation": batch.accumulation,
        "length": length,
        "dtype": dtype,
    }
    port = str(free_ports(1)[0])
    world = settings.cluster.workers
    # What is not installed, as when a script of jobs/ runs elsewhere, is found where this is.
    here = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = environment | {
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join(filter(None, here)),
    }
    with _processes(world, port, os.environ | environment) as processes:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(task))
            process.stdin.close()
        deadline = time.monotonic() + LONGEST_SECONDS
        found = [_figures(process, deadline) for process in processes]
    return Measured(
        parts={name: max(each["parts"][name] for each in found) for name in found[0]["parts"]},
        micro=tuple(max(each["micro"][index] for each in found) for index in range(2)),
        last=tuple(max(each["last"][index] for each in found) for index in range(2)),
        peaks=tuple(max(each["peaks"][index] for each in found) for index in range(2)),
        disk=min(each["disk"] for each in found),
    )


@contextmanager
def _processes(world: int, port: str, environment: dict[str, str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Start one process per worker; none outlives the block."""
    started: list[subprocess.Popen[str]] = []
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    try:
        for rank in range(world):
            words = [sys.executable, "-m", __name__, str(rank), str(world), port]
            started.append(subprocess.Popen(words, env=environment, text=True, **pipes))
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def _figures(process: subprocess.Popen[str], deadline: float) -> dict[str, Any]:
    try:
        process.stdin = None  # written and closed
        output, errors = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise CodexRayError(
            f"measuring this machine took longer than {LONGEST_SECONDS:.0f} s; plan a smaller micro-batch "
            "(train.micro_batch_rows), or name a card"
        ) from error
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if process.returncode or not lines:
        reason = (errors.strip().splitlines() or ["no message"])[-1][:300]
        raise CodexRayError(f"measuring this machine failed ({reason}); name a card to plan without it")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def main(rank: int, world: int, port: str) -> None:
    """Measure as one of ``world`` workers and print the figures as one line of JSON."""
    import torch
    import torch.distributed as dist

    task = json.load(sys.stdin)
    settings = build(Pretrain, task["settings"])
    _import_as_workers_do()
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
    }
    os.environ["WORLD_SIZE"] = str(world)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    peaks = [_peak(settings, task, layers) for layers in LAYERS]  # first, while the heap is as a worker's
    parts = _parts(task)
    micro, last = _engine(settings, task["dtype"])
    found = {"parts": parts, "micro": micro, "last": last, "peaks": peaks, "disk": _disk()}
    dist.destroy_process_group()
    print(json.dumps(found), flush=True)


def _import_as_workers_do() -> None:
    """Import what a training worker imports, which is most of a small worker's memory."""
    import ray.train.torch  # noqa: F401

    from codex_ray.train.engine import import_deepspeed
    from codex_ray.train.worker import train_worker  # noqa: F401

    import_deepspeed("cpu")


def _peak(settings: Pretrain, task: dict[str, Any], layers: int) -> int:
    """Train a few steps of a model with so many layers; return the most bytes that this process has held."""
    import torch
    import torch.distributed as dist

    from codex_ray.model import CodexRayConfig, CodexRayForCausalLM
    from codex_ray.train.engine import Engine
    from codex_ray.train.objectives.next_token import NextToken
    from codex_ray.train.start import ready_for_training

    config = CodexRayConfig.from_dict({**task["model"], "num_hidden_layers": layers})
    rows, again = task["rows"], min(2, task["accumulation"])
    model = CodexRayForCausalLM(config).float()
    ready_for_training(model, settings.train)
    engine = Engine(
        model,
        optimizer=settings.optimizer,
        deepspeed=settings.deepspeed,
        batch=BatchPlan(rows * again * dist.get_world_size(), rows * again, rows, again),
        device=torch.device("cpu"),
        dtype=getattr(torch, task["dtype"]),
    )
    objective = NextToken()
    for _ in range(STEPS):
        for _ in range(again):
            ids_BS = torch.randint(4, config.vocab_size, (rows, task["length"]))
            engine.backward(objective.loss(engine.forward, ids_BS, again * objective.weight(ids_BS)))
        engine.step(1.0)
    engine.close()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _parts(task: dict[str, Any]) -> dict[str, float]:
    import torch

    from codex_ray.model import CodexRayConfig
    from codex_ray.plan.operators import Operators

    config, dtype = CodexRayConfig.from_dict(task["model"]), getattr(torch, task["dtype"])
    sets = [Operators(config, task["rows"], task["length"], dtype).named() for _ in range(SETS)]
    taken: dict[str, list[float]] = {name: [] for name in sets[0]}
    for _ in range(ROUNDS):  # so that a moment in which the machine is busy falls on all parts alike
        for name in taken:
            taken[name] += _times([each[name] for each in sets])
    return {name: statistics.median(times) for name, times in taken.items()}


def _times(operators: list[Callable[[], object]]) -> list[float]:
    """Seconds of single calls, all processes at it together; the first call only warms up."""
    import torch.distributed as dist

    operators[0]()
    dist.barrier()
    taken: list[float] = []
    end = time.perf_counter() + PART_SECONDS
    while len(taken) < len(operators) or time.perf_counter() < end:
        started = time.perf_counter()
        operators[len(taken) % len(operators)]()
        taken.append(time.perf_counter() - started)
    dist.barrier()
    return taken


def _engine(settings: Pretrain, dtype: str) -> tuple[list[float], list[float]]:
    """Seconds per tensor and per number of a micro-batch's gradients, and of the last with the update."""
    few, many = (_engine_seconds(settings, dtype, *sizes) for sizes in (SMALL, LARGE))
    return tuple(two_costs(small, large) for small, large in zip(few, many, strict=True))  # type: ignore[return-value]


def two_costs(small: float, large: float) -> list[float]:
    """Solve seconds = tensors x + numbers y for both."""
    (tensors, size), (more, greater) = SMALL, LARGE
    per_number = (large - small * more / tensors) / (more * greater - more * size)
    per_number = max(0.0, per_number)
    return [max(0.0, (small - tensors * size * per_number) / tensors), per_number]


def _engine_seconds(settings: Pretrain, dtype: str, tensors: int, size: int) -> tuple[float, float]:
    """Time the run's engine on square matrices that cost nothing to compute with."""
    import torch
    import torch.distributed as dist
    from torch import nn

    from codex_ray.train.engine import Engine

    class Touched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            side = int(size**0.5)
            self.matrices = nn.ParameterList([torch.zeros(side, side) for _ in range(tensors)])

        def forward(self) -> torch.Tensor:
            return torch.stack([matrix.view(-1)[0] for matrix in self.matrices]).float().sum()

    engine = Engine(
        Touched(),
        optimizer=settings.optimizer,
        deepspeed=settings.deepspeed,
        batch=BatchPlan(2 * dist.get_world_size(), 2, 1, 2),
        device=torch.device("cpu"),
        dtype=getattr(torch, dtype),
    )
    first, second = [], []
    for _ in range(6):
        marks = [time.perf_counter()]
        for _ in range(2):
            engine.backward(engine.forward())
            marks.append(time.perf_counter())
        engine.step(1.0)
        marks.append(time.perf_counter())
        first.append(marks[1] - marks[0])
        second.append(marks[3] - marks[1])
    engine.close()
    return statistics.median(first[1:]), statistics.median(second[1:])


def _disk() -> float:
    """Bytes/s of writing a file, as a checkpoint is written, and hashing it."""
    block = os.urandom(2**20)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "block"
        started = time.perf_counter()
        with path.open("wb") as stream:
            for _ in range(DISK_BYTES // len(block)):
                stream.write(block)
        sha256_of(path)
        return DISK_BYTES / (time.perf_counter() - started)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
