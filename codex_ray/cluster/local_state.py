"""What a local cluster is made of, as its folder records it from before the first process starts."""

from __future__ import annotations

import dataclasses
import os
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codex_ray.cluster.processes import Started
from codex_ray.errors import CodexRayError
from codex_ray.files import read_json, write_json

FORMAT = 1
_STATE, _TOKEN, _LOGS, _LOCK = "cluster.json", "token", "logs", ".lock"


@dataclass
class Node:
    """One node: its number, its network, and the process that keeps it up.

    Attributes:
        index: 0 is the head.
        address: its address.
        interface: the network interface with that address.
        process: its `ray start`; None until that is started.
        holder: the holder of its namespace; None on the machine's own network.
    """

    index: int
    address: str
    interface: str
    process: Started | None = None
    holder: Started | None = None

    @property
    def name(self) -> str:
        """Its name in Ray."""
        return f"node-{self.index}"


@dataclass
class State:
    """A local cluster.

    Attributes:
        name: six random digits that mark its processes and its interface.
        isolation: `namespaces` or `processes`.
        administrator: whether the namespaces were made with the machine's administrator's rights.
        subnet: range of the addresses; empty without namespaces.
        temporary: folder of Ray's sockets and logs; short, because socket paths are.
        gcs: address of Ray's head, for RAY_ADDRESS.
        dashboard: address of its dashboard, for `--submit`.
        cpus_per_node: logical CPUs of a node.
        memory_bytes: memory that Ray hands out on a node.
        object_store_bytes: object store of a node.
        timeout_seconds: longest wait for a node.
        hub: the holder of the bridge's namespace; None without.
        nodes: the nodes, ended ones too.
    """

    name: str
    isolation: str
    administrator: bool
    subnet: str
    temporary: str
    gcs: str
    dashboard: str
    cpus_per_node: int
    memory_bytes: int
    object_store_bytes: int
    timeout_seconds: float
    hub: Started | None = None
    nodes: list[Node] = field(default_factory=list)

    def mark(self, part: int | str | None = None) -> str:
        """Return the mark of one part's processes; without a part, the beginning of all marks."""
        return f"{self.name}:" if part is None else f"{self.name}:{part}:"


class ClusterFolder:
    """The files of a local cluster."""

    def __init__(self, folder: str | Path):
        self.path = Path(folder).expanduser().absolute()

    @property
    def token(self) -> Path:
        """Ray's token, readable by its owner alone."""
        return self.path / _TOKEN

    def log(self, part: int | str) -> Path:
        """Return the log of a node or of a helper process."""
        return self.path / _LOGS / f"{part}.log"

    def holds_cluster(self) -> bool:
        """Say whether a cluster was started here and not taken down."""
        return (self.path / _STATE).exists()

    def refuse_foreign(self) -> None:
        """Refuse a folder that anything but the lock is in: all of it will be removed one day.

        Raises:
            CodexRayError: naming a file of it.
        """
        foreign = sorted(path.name for path in self.path.iterdir() if path.name != _LOCK)
        if foreign:
            raise CodexRayError(f"{self.path} holds other files ({foreign[0]}); give folder=EMPTY_FOLDER")

    def save(self, state: State) -> None:
        """Write the state in one step."""
        write_json(self.path / _STATE, {"format": FORMAT, **dataclasses.asdict(state)})

    def load(self) -> State:
        """Read the state.

        Raises:
            CodexRayError: there is none, or another version of this project wrote it.
        """
        data: dict[str, Any] = read_json(self.path / _STATE, "the state of a local cluster")
        if data.pop("format", None) != FORMAT:
            raise CodexRayError(
                f"{self.path} was written by another version of codex-ray; end that cluster with that version"
            )
        nodes = [
            Node(**{**node, "process": _started(node["process"]), "holder": _started(node["holder"])})
            for node in data.pop("nodes")
        ]
        return State(**{**data, "hub": _started(data["hub"]), "nodes": nodes})

    def write_token(self) -> None:
        """Write a fresh token, mode 0600."""
        handle = os.open(self.token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as stream:
            stream.write(secrets.token_hex(32))

    def read_token(self) -> str:
        """Return the token; empty where a start was broken off before it was written."""
        return self.token.read_text() if self.token.exists() else ""

    def remove(self) -> None:
        """Remove all of the cluster's files, the state last, and the folder where nothing else is in it."""
        shutil.rmtree(self.path / _LOGS, ignore_errors=True)
        for name in (_TOKEN, _STATE):
            (self.path / name).unlink(missing_ok=True)
        self.leave()

    def leave(self) -> None:
        """Remove the lock, and the folder where nothing else is in it."""
        (self.path / _LOCK).unlink(missing_ok=True)
        if self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()


def _started(data: dict[str, Any] | None) -> Started | None:
    return None if data is None else Started(**data)
