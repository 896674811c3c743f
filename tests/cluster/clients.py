"""Clients of a local cluster, and what they and its nodes leave, for the cluster tests."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psutil

from codex_ray.cluster.local_cluster import LocalCluster

ROOT = Path(__file__).resolve().parents[2]
WHO = """
import ray
ray.init(log_to_driver=False, logging_level="ERROR")

@ray.remote(num_cpus=3)
def who():
    import os, socket, time
    from codex_ray.cluster.network import interface_of
    time.sleep(1)
    address = ray.util.get_node_ip_address()
    names = sorted(name for _, name in socket.if_nameindex())
    return ray.get_runtime_context().get_node_id(), address, interface_of(address), names

for node, address, interface, names in ray.get([who.remote() for _ in range(2)]):
    print(node, address, interface, ",".join(names))
"""
LIST_JOBS = "import sys; from codex_ray.cluster.jobs import connect; connect(sys.argv[1]).list_jobs()"


def python(
    cluster: LocalCluster, *words: str, node: int | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run Python as a client of the cluster, on this machine's network or on a node's."""
    return subprocess.run(
        [*([] if node is None else cluster.entering(node)), sys.executable, *words],
        cwd=ROOT,
        env={**environment(cluster), **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def environment(cluster: LocalCluster) -> dict[str, str]:
    """The variables of a client."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, **cluster.variables}


def descendants(cluster: LocalCluster) -> list[psutil.Process]:
    """What the nodes' processes have started, found by parentage alone."""
    found: list[psutil.Process] = []
    for node in cluster.nodes:
        with contextlib.suppress(psutil.NoSuchProcess):
            head = psutil.Process(node.process.pid)  # type: ignore[union-attr]
            found += [head, *head.children(recursive=True)]
    return found


def still_running(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def interfaces() -> set[str]:
    return set(psutil.net_if_addrs())


def states(cluster: LocalCluster) -> list[str]:
    return [status.state for status in cluster.status()]
