"""The command and the variables that start one node of a local cluster, and asking its head who is there."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codex_ray.cluster.local_state import Node, State

LOOPBACK = "127.0.0.1"
_MOST_NODES = 10_000
_ANSWER_SECONDS = 10.0


def free_ports(count: int) -> list[int]:
    """Return ports that nothing on this machine listens on."""
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def client_variables(state: State, token: Path) -> dict[str, str]:
    """Return the variables with which a driver finds the cluster and is let in."""
    return {"RAY_ADDRESS": state.gcs, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}


def node_variables(node: Node, token: Path) -> dict[str, str]:
    """Return the whole environment of a node's processes; Ray settings of this process stay out of it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    search = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return kept | {
        "PATH": os.pathsep.join(search),  # jobs say `python` and mean this one
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_worker_niceness": "0",
        "GLOO_SOCKET_IFNAME": node.interface,
    }


def node_command(state: State, node: Node, labels: Mapping[str, str]) -> list[str]:
    """Return the `ray start` of a node, which runs for as long as the node does; labels are Ray's."""
    agent, client = free_ports(2)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    command += [f"--node-ip-address={node.address}", f"--node-name={node.name}"]
    command += [f"--num-cpus={state.cpus_per_node}", "--num-gpus=0", f"--memory={state.memory_bytes}"]
    command += [f"--object-store-memory={state.object_store_bytes}"]
    command += [f"--temp-dir={Path(state.temporary) / str(node.index)}"]
    if labels:
        command.append("--labels=" + ",".join(f"{name}={value}" for name, value in labels.items()))
    # Several nodes may share an address: Ray then must not count its ports up from a fixed one.
    command += [f"--dashboard-agent-listen-port={agent}", "--min-worker-port=0", "--max-worker-port=0"]
    if node.index:
        return [*command, f"--address={state.gcs}"]
    dashboard = state.dashboard.rpartition(":")[2]
    command += ["--head", f"--port={state.gcs.rpartition(':')[2]}", f"--ray-client-server-port={client}"]
    return [*command, f"--dashboard-host={LOOPBACK}", f"--dashboard-port={dashboard}"]


def ask(dashboard: str, token: str) -> Mapping[str, Mapping[str, Any]] | None:
    """Return what Ray's head says of each node, by node name; None where it does not answer."""
    request = urllib.request.Request(
        f"{dashboard}/api/v0/nodes?limit={_MOST_NODES}", headers={"Authorization": f"Bearer {token}"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback needs no proxy
    try:
        with opener.open(request, timeout=_ANSWER_SECONDS) as answer:
            found = json.load(answer)["data"]["result"]["result"]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
    return {entry["node_name"]: entry for entry in found}
