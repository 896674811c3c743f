"""The process group between workers: gloo on the interface that carries the node's address."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Any

import psutil
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend


def interface_of(address: str) -> str | None:
    """Return the name of the network interface that holds ``address``, or None."""
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.family == socket.AF_INET and entry.address == address for entry in entries):
            return str(name)
    return None


def use_node_interface() -> None:
    """Bind gloo to this node's interface; left alone, it may choose loopback and hang between hosts."""
    import ray

    name = interface_of(ray.util.get_node_ip_address())
    if name and "GLOO_SOCKET_IFNAME" not in os.environ:
        os.environ["GLOO_SOCKET_IFNAME"] = name


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(use_node_interface)
        super().on_start(worker_group, backend_config)


@dataclass
class ProcessGroup(TorchConfig):
    """Ray Train's torch process group with the gloo interface found on every node."""

    @property
    def backend_cls(self) -> type[_Backend]:
        """The backend that Ray Train starts on the workers."""
        return _Backend
