"""A local cluster that is being built or runs: its nodes, faults in them, and its end."""

from __future__ import annotations

import shutil
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from codex_ray.cluster import relay
from codex_ray.cluster.local_state import ClusterFolder, Node, State
from codex_ray.cluster.namespaces import Bridge, entering, hold
from codex_ray.cluster.processes import end, start
from codex_ray.cluster.ray_node import LOOPBACK, ask, client_variables, node_command, node_variables
from codex_ray.errors import CodexRayError
from codex_ray.files import folder_lock

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class NodeStatus:
    """A node as it is now.

    Attributes:
        node: the node.
        state: `alive`; `dead`, when its processes are gone; `lost`, when they run and the head cannot reach
            them; `unknown`, when they run and the head does not answer.
        resources: what Ray counts on it, by name; empty unless it is alive.
    """

    node: Node
    state: str
    resources: dict[str, float]


class LocalCluster:
    """A running cluster; as a context manager it ends with the block."""

    def __init__(self, folder: ClusterFolder, state: State):
        self.folder = folder
        self.state = state

    @classmethod
    def open(cls, folder: str | Path) -> LocalCluster:
        """Return the cluster whose state ``folder`` holds.

        Raises:
            CodexRayError: there is none.
        """
        files = ClusterFolder(folder)
        if not files.holds_cluster():
            raise CodexRayError(
                f"no local cluster is up in {files.path}; start one with `codex-ray cluster up`"
            )
        return cls(files, files.load())

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    @property
    def nodes(self) -> list[Node]:
        """The nodes, ended ones too."""
        return self.state.nodes

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a driver or client: address, token mode and token file."""
        return client_variables(self.state, self.folder.token)

    def entering(self, index: int) -> list[str]:
        """Return the words before a command that run it on a node's network."""
        holder = self.state.nodes[index].holder
        return [] if holder is None else entering(holder.pid, self.state.administrator)

    def status(self) -> list[NodeStatus]:
        """Ask the processes and the head how each node is."""
        known = ask(self.state.dashboard, self.folder.read_token())
        found = []
        for node in self.state.nodes:
            entry = None if known is None else known.get(node.name)
            resources: dict[str, float] = {}
            if node.process is None or not node.process.alive():
                state = "dead"
            elif known is None:
                state = "unknown"
            elif entry is not None and entry["state"] == "ALIVE":
                state, resources = "alive", dict(entry.get("resources_total") or {})
            else:
                state = "lost"
            found.append(NodeStatus(node, state, resources))
        return found

    def kill_node(self, index: int) -> None:
        """End everything of a node at once (SIGKILL), its network with it; the cluster has to find out.

        Raises:
            CodexRayError: there is no such node, or a process of it outlives the signal.
        """
        node = self._node(index)
        _refuse_survivors(end(self.state.mark(index), [node.holder] if node.holder else []))

    def cut_node(self, index: int) -> None:
        """Take a node's network away while its processes run on.

        Raises:
            CodexRayError: there is no such node, or nodes have no networks of their own.
        """
        self._bridge().cut(self._node(index).index)

    def heal_node(self, index: int) -> None:
        """Give a node its network back; Ray may have given it up meanwhile.

        Raises:
            CodexRayError: as :meth:`cut_node`.
        """
        self._bridge().heal(self._node(index).index)

    def add_node(self, labels: Mapping[str, str] | None = None) -> Node:
        """Start one more node, with these labels, and wait until the head sees it.

        Raises:
            CodexRayError: it does not come up within the cluster's ``timeout_seconds``.
        """
        node = self._start_node(len(self.state.nodes), labels or {})
        self._wait_for([node])
        return node

    def down(self) -> None:
        """End the cluster and remove all of it; nothing happens where nothing is left.

        Raises:
            CodexRayError: something survives, which it names.
        """
        if not self.folder.holds_cluster():
            return
        with folder_lock(self.folder.path, "the local cluster in"):
            self.remove()

    def remove(self) -> None:
        """Do the work of :meth:`down` for a caller that holds the folder."""
        survivors = end(self.state.mark(), [node.holder for node in self.state.nodes if node.holder])
        if self.state.subnet:
            bridge = self._bridge()
            bridge.remove_from_machine()
            if bridge.on_machine():
                raise CodexRayError(
                    f"the interface {bridge.machine_interface} could not be removed; remove it with "
                    f"`ip link delete {bridge.machine_interface}` as root and run this again"
                )
        _refuse_survivors(survivors)
        temporary = Path(self.state.temporary)
        shutil.rmtree(temporary, ignore_errors=True)
        if temporary.exists():
            raise CodexRayError(f"{temporary} could not be removed; remove it by hand and run this again")
        self.folder.remove()

    def start(self, nodes: int) -> None:
        """Build the network, start the head, then the other nodes, and wait until all are alive."""
        if self.state.isolation == "namespaces":
            log = self.folder.log("hub")
            self.state.hub = hold(self.state.mark("hub"), log, self.state.administrator)
            self._bridge().build()
        self._wait_for([self._start_node(0, {})])
        self._wait_for([self._start_node(index, {}) for index in range(1, nodes)])

    def _start_node(self, index: int, labels: Mapping[str, str]) -> Node:
        state, mark = self.state, self.state.mark(index)
        node = Node(index, LOOPBACK, "lo")
        if state.isolation == "namespaces":
            bridge = self._bridge()
            if index or not state.administrator:
                log = self.folder.log(f"network-{index}")
                node.holder = hold(mark, log, state.administrator, inside=bridge.hub)
            holder = None if node.holder is None else node.holder.pid
            node.address, node.interface = bridge.address(index), bridge.attach(index, holder)
        state.nodes.append(node)
        if index == 0 and node.holder is not None:
            self._start_relay()
        command = [*self.entering(index), *node_command(state, node, labels)]
        variables = node_variables(node, self.folder.token)
        node.process = start(command, mark, self.folder.log(index), variables)
        self.folder.save(state)
        return node

    def _start_relay(self) -> None:
        """Carry the dashboard's port out of node 0's namespace to a free one of the machine."""
        with socket.create_server((LOOPBACK, 0)) as listening:
            port = listening.getsockname()[1]
            self.state.dashboard = f"http://{LOOPBACK}:{port}"
            script = [sys.executable, "-P", str(Path(relay.__file__)), str(listening.fileno())]
            command = [*self.entering(0), *script, LOOPBACK, str(port)]
            variables = node_variables(self.state.nodes[0], self.folder.token)
            start(
                command, self.state.mark("relay"), self.folder.log("relay"), variables, [listening.fileno()]
            )

    def _wait_for(self, nodes: list[Node]) -> None:
        deadline = time.monotonic() + self.state.timeout_seconds
        waiting = list(nodes)
        while True:
            known = ask(self.state.dashboard, self.folder.read_token())
            waiting = [n for n in waiting if (known or {}).get(n.name, {}).get("state") != "ALIVE"]
            if not waiting:
                return
            node = waiting[0]
            log = self.folder.log(node.index)
            if node.process is None or not node.process.alive():
                raise CodexRayError(
                    f"{node.name} ended while it started ({_last_line(log)}); give it what it lacks and run "
                    "this again"
                )
            if time.monotonic() > deadline:
                seen = "the head does not answer" if known is None else f"the head knows {len(known)} nodes"
                raise CodexRayError(
                    f"{node.name} is not alive after {self.state.timeout_seconds:g} s ({seen}; its last "
                    f"words: {_last_line(log)}); raise timeout_seconds, or start fewer nodes on this machine"
                )
            time.sleep(_POLL_SECONDS)

    def _node(self, index: int) -> Node:
        if not 0 <= index < len(self.state.nodes):
            raise CodexRayError(f"there is no node {index}; the cluster has 0 to {len(self.state.nodes) - 1}")
        return self.state.nodes[index]

    def _bridge(self) -> Bridge:
        if not self.state.subnet:
            raise CodexRayError(
                "the nodes of this cluster share one network, which cannot be cut; start it with "
                "isolation=namespaces"
            )
        hub = 0 if self.state.hub is None else self.state.hub.pid
        return Bridge(self.state.name, self.state.subnet, self.state.administrator, hub)


def _refuse_survivors(survivors: list[object]) -> None:
    if survivors:
        raise CodexRayError(f"processes outlive SIGKILL: {survivors}; look at them, then run this again")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1].strip()[:300] if lines else "none"
