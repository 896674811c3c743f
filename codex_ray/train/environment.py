"""What a training worker's process is started with."""

from __future__ import annotations

import os

from codex_ray.config.common import Cluster
from codex_ray.config.train import TrainingRun

LARGE_BYTES = 32 * 2**20  # from here on glibc gives a tensor memory of its own, and takes it back


def worker_environment(settings: TrainingRun, threads: int) -> dict[str, str]:
    """Return what workers of a run are started with."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # DeepSpeed compiles parts of itself, which takes longer than it saves.
        "TORCH_COMPILE_DISABLE": "0" if settings.train.compile else "1",
        # glibc gives every large tensor back to the kernel when it is freed and asks for it again in
        # the next step, a page fault each 4 KiB: a tenth of the step. Let it keep them, in huge pages.
        "MALLOC_MMAP_THRESHOLD_": str(LARGE_BYTES),
        "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30),
        # Training is not the process's first thread, and other threads' memory is not kept so: let all share.
        "MALLOC_ARENA_MAX": "1",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    }


def threads_per_worker(cluster: Cluster) -> int:
    """Return the compute threads of one worker: as set, else an even share of this machine's cores."""
    return cluster.threads_per_worker or max(1, len(os.sched_getaffinity(0)) // cluster.workers)
