"""Adding up what a run asks for, and refusing at once what the cluster can never give.

Ray waits for ever for resources that do not exist; a person should not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from codex_ray.config.common import Cluster
from codex_ray.errors import CodexRayError

STREAM_CPUS_PER_WORKER = 0.25  # what the Ray Data stream of one worker needs to make progress
MOST_WORKERS = 10**6  # that a node is taken to hold where they ask for nothing


@dataclass(frozen=True)
class NodeOffer:
    """What a node has: resources as Ray counts them, and its labels."""

    resources: Mapping[str, float]
    labels: Mapping[str, str]


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


def nodes() -> list[NodeOffer]:
    """Return what the nodes of this session's cluster offer."""
    import ray

    return [NodeOffer(node["Resources"], node["Labels"]) for node in ray.nodes() if node["Alive"]]


def check_nodes(cluster: Cluster, offers: Sequence[NodeOffer]) -> None:
    """Refuse a run whose workers no set of nodes can hold, for their size, labels, GPUs or placement.

    Raises:
        CodexRayError: with how many workers such nodes can hold, and the setting to change.
    """
    workers, held = cluster.fewest_workers, _held(cluster, offers, cluster.workers)
    possible = {
        "strict_pack": max(held, default=0),
        "strict_spread": sum(1 for most in held if most),
    }.get(cluster.placement, sum(held))
    if possible >= workers:
        return
    each = [f"{cluster.cpus_per_worker:g} CPUs"]
    if cluster.gpus_per_worker:
        each.append(f"{cluster.gpus_per_worker:g} {cluster.gpu_kind or ''} GPUs".replace("  ", " "))
    labels = "".join(f" with {label}={wanted}" for label, wanted in cluster.labels.items())
    key = "cluster.min_workers" if cluster.min_workers else "cluster.workers"
    others = [f"cluster.{name}" for name in ("labels", "gpu_kind") if getattr(cluster, name)]
    others += ["cluster.placement"] * cluster.placement.startswith("strict")
    raise CodexRayError(
        f"the run needs {workers} workers of {' and '.join(each)} on nodes{labels} "
        f"(cluster.placement={cluster.placement}), and the cluster's {len(held)} such nodes can hold "
        f"{possible}; lower {' or change '.join([key, *others])}"
    )


def runs_at_a_time(cluster: Cluster, offers: Sequence[NodeOffer]) -> int:
    """Return how many runs the nodes can hold whole, each with all its workers placed as it wants."""
    held, workers = _held(cluster, offers, MOST_WORKERS), cluster.workers
    if cluster.placement == "strict_pack":
        return sum(most // workers for most in held)
    runs = sum(held) // workers
    while cluster.placement == "strict_spread" and sum(min(most, runs) for most in held) < runs * workers:
        runs -= 1
    return runs


def _held(cluster: Cluster, offers: Sequence[NodeOffer], at_most: int) -> list[int]:
    """Return how many workers each node can hold that has the labels."""
    return [
        _most_workers(cluster, offer, at_most)
        for offer in offers
        if all(matches(offer.labels.get(label), wanted) for label, wanted in cluster.labels.items())
    ]


def matches(value: str | None, wanted: str) -> bool:
    """Whether a label is what a selector of Ray's asks for: ``a``, ``!a``, ``in(a,b)`` or ``!in(a,b)``.

    A node without the label has none of the values, so it matches what begins with ``!``.
    """
    positive = wanted.removeprefix("!")
    listed = positive.removeprefix("in(").removesuffix(")") if positive.startswith("in(") else None
    values = [positive] if listed is None else [part.strip() for part in listed.split(",")]
    return (value in values) != wanted.startswith("!")


def _most_workers(cluster: Cluster, offer: NodeOffer, at_most: int) -> int:
    """Return how many workers a node can hold; of those that ask for nothing, ``at_most``."""
    kind = f"accelerator_type:{cluster.gpu_kind}"
    if cluster.gpu_kind is not None and not offer.resources.get(kind):
        return 0
    shares = [at_most]
    for name, amount in (("CPU", cluster.cpus_per_worker), ("GPU", cluster.gpus_per_worker)):
        if amount:
            shares.append(int(offer.resources.get(name, 0.0) / amount + 1e-9))
    return min(shares)
