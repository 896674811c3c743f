"""Starting several Ray nodes on one machine, for trying out what happens between nodes.

    with up(ClusterUp(folder="here", nodes=3)) as cluster:
        cluster.kill_node(2)

Nodes are network namespaces (see :mod:`codex_ray.cluster.namespaces`) or, where these are not possible,
processes that share the loopback address. All share this machine's files, as a cluster with a shared file
system does. Every process carries the cluster's mark and the folder holds the mark from before the first of
them, so that ``LocalCluster.down``, from any process, finds all of it whatever became of the caller of
:func:`up`.
"""

from __future__ import annotations

import secrets
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from codex_ray.cluster.local_cluster import LocalCluster
from codex_ray.cluster.local_state import ClusterFolder, State
from codex_ray.cluster.namespaces import Bridge, choose_rights, free_subnet
from codex_ray.cluster.ray_node import LOOPBACK, free_ports
from codex_ray.config.cluster import ClusterUp
from codex_ray.errors import CodexRayError
from codex_ray.files import folder_lock


def up(settings: ClusterUp) -> LocalCluster:
    """Start a cluster and return it when all of its nodes are alive.

    Raises:
        CodexRayError: the folder holds one already, the machine does not allow what is asked, or a node
            does not come up; nothing is left then.
    """
    folder = ClusterFolder(settings.folder)
    with folder_lock(folder.path, "the local cluster in"):
        if folder.holds_cluster():
            raise CodexRayError(
                f"a local cluster is up in {folder.path} already; end it with `codex-ray cluster down "
                f"{settings.folder}`, or give another folder"
            )
        try:
            folder.refuse_foreign()
            cluster = LocalCluster(folder, _plan(settings))
        except BaseException:
            folder.leave()
            raise
        with _terminable():
            try:
                folder.path.chmod(0o700)
                folder.save(cluster.state)
                folder.write_token()
                cluster.start(settings.nodes)
            except BaseException:
                cluster.remove()
                raise
    return cluster


def _plan(settings: ClusterUp) -> State:
    administrator = choose_rights(settings.isolation)
    subnet = "" if administrator is None else str(free_subnet())
    name = secrets.token_hex(3)
    head = Bridge(name, subnet, bool(administrator), 0).address(0) if subnet else LOOPBACK
    gcs, dashboard = free_ports(2)
    return State(
        name=name,
        isolation="namespaces" if subnet else "processes",
        administrator=bool(administrator),
        subnet=subnet,
        temporary=tempfile.mkdtemp(prefix="cr_"),
        gcs=f"{head}:{gcs}",
        dashboard=f"http://{LOOPBACK}:{dashboard}",
        cpus_per_node=settings.cpus_per_node,
        memory_bytes=settings.memory_bytes,
        object_store_bytes=settings.object_store_bytes,
        timeout_seconds=settings.timeout_seconds,
    )


@contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM into KeyboardInterrupt for the block, so that what was started is ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
