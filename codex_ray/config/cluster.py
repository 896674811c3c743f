"""Settings of `cluster up`, `cluster down` and `cluster status`: several Ray nodes on one machine."""

from __future__ import annotations

from dataclasses import dataclass

from codex_ray.config.fields import setting

DEFAULT_FOLDER = "~/.codex_ray/cluster"
_FOLDER_HELP = "folder that holds the cluster's state, token and logs"


@dataclass(frozen=True)
class ClusterUp:
    """Start a Ray cluster of several nodes on this machine."""

    folder: str = setting(DEFAULT_FOLDER, help=_FOLDER_HELP)
    nodes: int = setting(2, minimum=1, maximum=200, help="nodes, the head among them")
    isolation: str = setting(
        "auto",
        choices=("auto", "namespaces", "processes"),
        help="a network namespace per node, or processes on loopback; auto is namespaces where allowed",
    )
    cpus_per_node: int = setting(4, minimum=1, help="logical CPUs that each node counts")
    memory_bytes: int = setting(2 * 2**30, minimum=2**26, help="memory that Ray hands out per node, in bytes")
    object_store_bytes: int = setting(128 * 2**20, minimum=80 * 2**20, help="object store per node, in bytes")
    timeout_seconds: float = setting(180.0, minimum=1.0, help="longest wait for all nodes to be alive")


@dataclass(frozen=True)
class ClusterDown:
    """End a cluster that `cluster up` started, and remove all of it."""

    folder: str = setting(DEFAULT_FOLDER, help=_FOLDER_HELP)


@dataclass(frozen=True)
class ClusterStatus:
    """Show the nodes of a cluster that `cluster up` started."""

    folder: str = setting(DEFAULT_FOLDER, help=_FOLDER_HELP)
