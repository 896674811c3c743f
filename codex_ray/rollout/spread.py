"""A pool for the length of a verb: in a Ray session of its own, or one that is joined."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from codex_ray.config.common import Cluster, Device
from codex_ray.config.rollout import Spread
from codex_ray.rollout.actor import FromFolder
from codex_ray.rollout.pool import RolloutPool, open_pool


def settled(compute: Device, spread: Spread) -> Device:
    """Decide a precision of ``auto`` for good: float32 on CPUs, bfloat16 on GPUs.

    A measurement, as training and serving take it, may decide otherwise on another day or for another actor,
    and what is sampled and scored shall be the same then.

    Raises:
        ConfigError: CUDA is asked for and there is none.
    """
    if compute.dtype != "auto":
        return compute
    if spread.actors:
        gpu = compute.device != "cpu" and spread.gpus_per_actor > 0
    else:
        from codex_ray.model.load import resolve_device

        gpu = resolve_device(compute.device).type == "cuda"
    return replace(compute, dtype="bfloat16" if gpu else "float32")


@contextmanager
def open_spread(spread: Spread, build: FromFolder, *, slots: int, seed: int) -> Iterator[RolloutPool]:
    """Start Ray actors that sample as ``spread`` says, for the length of the block.

    Args:
        spread: how many, and where.
        build: makes their model and tokenizer.
        slots: sequences that each samples together; ``seed``: that all draws derive from.

    Raises:
        CodexRayError: the cluster does not answer or has no room, or an actor does not start.
    """
    from codex_ray.cluster.session import open_session

    rollouts = spread.rollouts(slots)
    with (
        open_session(Cluster(address=spread.address), more_cpus=rollouts.cpus(scored=False)),
        open_pool(rollouts, build, seed=seed) as pool,
    ):
        yield pool
