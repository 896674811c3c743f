"""`cluster up`, `cluster down` and `cluster status` on the command line."""

from __future__ import annotations

import shlex

from codex_ray.cluster.local import up
from codex_ray.cluster.local_cluster import LocalCluster, NodeStatus
from codex_ray.cluster.local_state import ClusterFolder
from codex_ray.config.cluster import ClusterDown, ClusterStatus, ClusterUp

_MEBIBYTE = 2**20


def up_verb(settings: ClusterUp) -> LocalCluster:
    """Start a cluster, print its nodes and the commands that use it."""
    print(f"starting {settings.nodes} nodes, at most {settings.timeout_seconds:g} s each ...", flush=True)
    cluster = up(settings)
    print(table(cluster.status()))
    print("\n".join(["", *use(cluster)]))
    return cluster


def down_verb(settings: ClusterDown) -> None:
    """End a cluster and say so."""
    folder = ClusterFolder(settings.folder)
    if not folder.holds_cluster():
        print(f"no local cluster is up in {folder.path}")
        return
    LocalCluster.open(settings.folder).down()
    print(f"the local cluster in {folder.path} is gone: no process, interface or file is left")


def status_verb(settings: ClusterStatus) -> list[NodeStatus]:
    """Print how the nodes are and how to reach them."""
    cluster = LocalCluster.open(settings.folder)
    found = cluster.status()
    print(table(found))
    print("\n".join(["", *use(cluster)]))
    return found


def table(found: list[NodeStatus]) -> str:
    """Return the nodes as lines of text."""
    rows = [("node", "state", "address", "interface", "CPUs", "memory", "object store")]
    for status in found:
        node, resources = status.node, status.resources
        rows.append(
            (
                f"{node.index} (head)" if node.index == 0 else str(node.index),
                status.state,
                node.address,
                node.interface,
                f"{resources['CPU']:g}" if "CPU" in resources else "-",
                _size(resources.get("memory")),
                _size(resources.get("object_store_memory")),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def use(cluster: LocalCluster) -> list[str]:
    """Return the commands that use the cluster, each with a word on what it is for."""
    variables = dict(cluster.variables)
    folder = shlex.quote(str(cluster.folder.path))
    inside = cluster.entering(0)
    lines = []
    if inside:
        address = variables.pop("RAY_ADDRESS")
        lines = [
            "# only jobs reach these nodes from outside; drivers run in a shell among them:",
            f"RAY_ADDRESS={address} {shlex.join(inside)} $SHELL",
        ]
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    lines.insert(0, f"export {exports}")
    return [
        *lines,
        f"codex-ray prepare /TEXT output=/CORPUS --submit {cluster.state.dashboard}",
        f"codex-ray cluster status {folder}",
        f"codex-ray cluster down {folder}",
    ]


def _size(amount: float | None) -> str:
    return "-" if amount is None else f"{amount / _MEBIBYTE:.0f} MiB"
