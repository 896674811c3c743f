"""Adding up what a run asks for, and refusing at once what the cluster can never give.

Ray waits for ever for resources that do not exist; a person should not.
"""

from __future__ import annotations

from collections.abc import Mapping

from codex_ray.config.common import Cluster
from codex_ray.errors import CodexRayError

STREAM_CPUS_PER_WORKER = 0.25  # what the Ray Data stream of one worker needs to make progress


def check(cluster: Cluster, resources: Mapping[str, float], *, streams: bool) -> None:
    """Refuse a run whose workers and data tasks can never all be placed.

    Args:
        cluster: what the run asks for.
        resources: the cluster's totals, as ``ray.cluster_resources()`` gives them.
        streams: whether each worker also runs a Ray Data stream.

    Raises:
        CodexRayError: with what is wanted, what there is, and the setting to change.
    """
    workers = cluster.fewest_workers
    stream_cpus = workers * STREAM_CPUS_PER_WORKER if streams else 0.0
    wanted = {
        "CPU": workers * cluster.cpus_per_worker + stream_cpus,
        "GPU": workers * cluster.gpus_per_worker,
    }
    for kind, amount in wanted.items():
        there = resources.get(kind, 0.0)
        if amount > there:
            share = f"{workers} workers of {_per_worker(cluster, kind):g}"
            extra = f" and {stream_cpus:g} for their data" if kind == "CPU" and streams else ""
            key = "cluster.min_workers" if cluster.min_workers else "cluster.workers"
            remedy = key if kind == "GPU" else f"{key}, or raise cluster.logical_cpus"
            raise CodexRayError(
                f"the run needs {amount:g} {kind}s ({share}{extra}) and the cluster has {there:g}; "
                f"lower {remedy}"
            )


def _per_worker(cluster: Cluster, kind: str) -> float:
    return cluster.cpus_per_worker if kind == "CPU" else cluster.gpus_per_worker
