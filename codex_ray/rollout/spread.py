"""A pool for the length of a verb: in a Ray session of its own, or one that is joined."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from codex_ray.config.common import Cluster
from codex_ray.config.rollout import Spread
from codex_ray.rollout.actor import FromFolder
from codex_ray.rollout.pool import RolloutPool, open_pool


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
