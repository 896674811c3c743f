"""One rank of one contestant, in a process of its own: ``python -m benchmarks.stacks.run JOB RANK``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import torch

from benchmarks.stacks.job import Job

CONTESTANTS = {
    "ddp": "loops",
    "deepspeed": "loops",
    "trainer": "frameworks",
    "fabric": "frameworks",
    "ray_deepspeed": "frameworks",
}


def main(words: list[str]) -> None:
    """Run it and write its record down."""
    job, rank = Job.load(Path(words[0])), int(words[1])
    torch.set_num_threads(job.threads)
    module = importlib.import_module(f"benchmarks.stacks.{CONTESTANTS[job.contestant]}")
    record = getattr(module, job.contestant)(job, rank)
    if record.ends:
        record.save(job, rank)


if __name__ == "__main__":
    main(sys.argv[1:])
