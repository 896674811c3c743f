"""What every contestant is given, and what it writes down: the same model, rows, batch and threads."""

from __future__ import annotations

import json
import os
import resource
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codex_ray.config.check import BatchPlan, derive_batch
from codex_ray.config.compose import compose
from codex_ray.config.train import Pretrain
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.stream import open_stream
from codex_ray.files import write_json
from codex_ray.model import CodexRayForCausalLM, build_model
from codex_ray.tokenizer import Tokenizer

LEARNING_RATE = 1e-3
LOGGED_STEPS = 10  # whose losses are compared, the last ones


@dataclass(frozen=True)
class Job:
    """One contestant's run.

    Attributes:
        contestant: who runs it.
        words: words of ``pretrain`` that say what is trained.
        corpus: corpus folder; ``output``: folder of what each rank writes down.
        stage: ZeRO stage where there is one; ``dtype``: float32 or bfloat16.
        workers: processes; ``steps``: optimizer steps.
    """

    contestant: str
    words: list[str]
    corpus: str
    output: str
    stage: int
    dtype: str
    workers: int
    steps: int

    def save(self, path: Path) -> None:
        """Write the job for a process to :meth:`load`."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Job:
        """Read what :meth:`save` wrote."""
        return cls(**json.loads(path.read_text()))

    @property
    def threads(self) -> int:
        """Compute threads of each process."""
        return max(1, len(os.sched_getaffinity(0)) // self.workers)

    @property
    def settings(self) -> Pretrain:
        """The settings of ``pretrain`` that train the same."""
        settings: Pretrain = compose("pretrain", self.words, values={"corpus": self.corpus})
        return settings

    def environment(self, rank: int, port: int) -> dict[str, str]:
        """Variables that every launcher of processes sets, and the threads."""
        return {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "NODE_RANK": "0",
            "WORLD_SIZE": str(self.workers),
            "LOCAL_WORLD_SIZE": str(self.workers),
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
            "TORCH_COMPILE_DISABLE": "1",
        }


@dataclass
class Record:
    """When each step of a rank ended, and its loss."""

    ends: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def step(self, loss: float) -> None:
        """Note that an optimizer step is done."""
        self.ends.append(time.time())
        self.losses.append(loss)

    def save(self, job: Job, rank: int) -> None:
        """Write it down, with the most memory that the process ever held."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        path = Path(job.output) / f"rank_{rank}.json"
        write_json(path, {"ends": self.ends, "losses": self.losses, "peak_bytes": peak})


def model_of(job: Job) -> CodexRayForCausalLM:
    """Build the model, in fp32, as ``pretrain`` builds it."""
    settings = job.settings
    tokenizer = Tokenizer.load(Path(job.corpus) / "tokenizer")
    return build_model(
        settings.model,
        vocabulary_size=tokenizer.vocabulary_size,
        sequence_length=Manifest.load(Path(job.corpus)).sequence_length,
        seed=settings.seed,
        special_ids=tokenizer.special_ids,
    )


def batch_of(job: Job) -> BatchPlan:
    """Share the batch out as ``pretrain`` shares it."""
    train = job.settings.train
    length = Manifest.load(Path(job.corpus)).sequence_length
    return derive_batch(train.batch_tokens, length, job.workers, train.micro_batch_rows)


def rows_in_memory(job: Job, rank: int) -> list[torch.Tensor]:
    """Read a rank's rows of every step before training, in the order of ``pretrain``."""
    stream: Any = open_stream(
        Path(job.corpus),
        "train",
        kind="direct",
        seed=job.settings.seed,
        first_step=0,
        steps=job.steps,
        batch_rows=batch_of(job).global_rows,
        rank=rank,
        world_size=job.workers,
    )
    return [torch.from_numpy(step.tokens.astype(np.int64)) for step in stream]
