"""A network for each node of a local cluster: namespaces joined by a bridge.

The bridge lies in a namespace of its own, where no firewall rule of the machine applies. Every node has one
cable to it (a veth pair): one end a port of the bridge, the other the node's ``eth0``. With the rights of an
administrator, node 0 is the machine's own namespace, so that drivers and clients on the machine reach the
cluster directly. Without them everything lies in a user namespace, which the machine's own processes cannot
address; there node 0 has a namespace too, and a relay carries the dashboard's port out.

A namespace lives as long as the process that holds it. Ending the holders ends all there is.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from codex_ray.cluster.processes import Started, start
from codex_ray.errors import CodexRayError

INTERFACE = "eth0"
_BRIDGE = "bridge0"
_COMMAND_SECONDS = 60.0
_TOOLS = {"ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux"}
_PROBE = "ip link add name probe0 type bridge && ip link add name probe1 type veth peer name probe2"
_HOLDER_SECONDS = 10.0
_NET_ADMIN, _SYS_ADMIN = 12, 21  # places of the two capabilities in /proc's masks


def unavailable(administrator: bool) -> str | None:
    """Say what is missing for network namespaces on this machine, or None.

    Args:
        administrator: whether to make them in the machine's own user namespace, as root may.
    """
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            return f"the program {tool} (package {package}) is missing"
    if administrator and not _has_capabilities():
        return "this process lacks CAP_NET_ADMIN and CAP_SYS_ADMIN"
    done = _done(["unshare", *_user(administrator), "--net", "sh", "-c", _PROBE])
    if done.returncode == 0:
        return None
    reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return f"the kernel refuses ({reason})"


def choose_rights(isolation: str) -> bool | None:
    """Return whether namespaces are made with an administrator's rights; None for no namespaces.

    Args:
        isolation: `auto`, `namespaces` or `processes`.

    Raises:
        CodexRayError: namespaces are asked for and not possible; it names what is missing.
    """
    if isolation == "processes":
        return None
    reasons = []
    for administrator in (True, False):
        reason = unavailable(administrator)
        if reason is None:
            return administrator
        reasons.append(reason)
    if isolation == "auto":
        return None
    raise CodexRayError(
        f"network namespaces are not possible here: as administrator, {reasons[0]}; as a user, {reasons[1]}; "
        "run as root, allow unprivileged user namespaces, or give isolation=processes"
    )


def _has_capabilities() -> bool:
    status = Path("/proc/self/status").read_text()
    mask = int(status.split("CapEff:")[1].split()[0], 16)
    return all(mask >> place & 1 for place in (_NET_ADMIN, _SYS_ADMIN))


def _user(administrator: bool) -> list[str]:
    return [] if administrator else ["--user", "--map-root-user"]


def free_subnet() -> ipaddress.IPv4Network:
    """Return a private range of 254 addresses that no route of this machine covers."""
    listing = _done(["ip", "-json", "-4", "route", "show", "table", "all"])
    routes = [route["dst"] for route in json.loads(listing.stdout or "[]") if route["dst"] != "default"]
    taken = [ipaddress.ip_network(text, strict=False) for text in routes]
    for candidate in ipaddress.ip_network("10.213.0.0/16").subnets(new_prefix=24):
        if not any(candidate.overlaps(network) for network in taken):
            return ipaddress.IPv4Network(candidate)
    raise CodexRayError(
        "every range of 10.213.0.0/16 is routed on this machine; end other local clusters, or give "
        "isolation=processes"
    )


def entering(holder: int, administrator: bool) -> list[str]:
    """Return the words that run a command inside the namespace that process ``holder`` holds."""
    words = ["nsenter", "--target", str(holder), "--net"]
    return words if administrator else [*words, "--user", "--preserve-credentials"]


class Bridge:
    """The bridge of one cluster and the cables to it.

    Args:
        name: short name of the cluster; the machine's end of node 0's cable bears it.
        subnet: addresses; node i has the (i+1)-th.
        administrator: see :func:`unavailable`.
        hub: process id of the bridge's holder.
    """

    def __init__(self, name: str, subnet: str, administrator: bool, hub: int):
        self.machine_interface = f"cr{name}"
        self.subnet = ipaddress.IPv4Network(subnet)
        self.administrator = administrator
        self.hub = hub

    def address(self, index: int) -> str:
        """Return the address of node ``index``."""
        return str(self.subnet[index + 1])

    def build(self) -> None:
        """Make the bridge itself."""
        self._in_hub(["link", "add", "name", _BRIDGE, "type", "bridge"])
        self._in_hub(["link", "set", _BRIDGE, "up"])

    def attach(self, index: int, holder: int | None) -> str:
        """Lay the cable of node ``index`` and return the name of the node's interface.

        Args:
            index: number of the node.
            holder: process id of its namespace's holder; None is the machine's own namespace.
        """
        address = f"{self.address(index)}/{self.subnet.prefixlen}"
        port = _port(index)
        if holder is None:
            interface, inside = self.machine_interface, list[str]()
            _run(
                ["ip", "link", "add", interface, "type", "veth", "peer", "name", port, "netns", str(self.hub)]
            )
        else:
            interface, inside = INTERFACE, entering(holder, self.administrator)
            far = ["peer", "name", interface, "netns", str(holder)]
            self._in_hub(["link", "add", "name", port, "type", "veth", *far])
            _run([*inside, "ip", "link", "set", "lo", "up"])
        self._in_hub(["link", "set", port, "master", _BRIDGE, "up"])
        _run([*inside, "ip", "address", "add", address, "dev", interface])
        _run([*inside, "ip", "link", "set", interface, "up"])
        return interface

    def cut(self, index: int) -> None:
        """Take the node's cable out: nothing reaches it and it reaches nothing."""
        self._in_hub(["link", "set", _port(index), "down"])

    def heal(self, index: int) -> None:
        """Put the node's cable back."""
        self._in_hub(["link", "set", _port(index), "up"])

    def remove_from_machine(self) -> None:
        """Remove what lies in the machine's own namespace; nothing happens where there is nothing."""
        if self.on_machine():
            _done(["ip", "link", "delete", self.machine_interface])

    def on_machine(self) -> bool:
        """Say whether the machine's end of node 0's cable is there."""
        return self.machine_interface in psutil.net_if_addrs()

    def _in_hub(self, words: Sequence[str]) -> None:
        _run([*entering(self.hub, self.administrator), "ip", *words])


def _port(index: int) -> str:
    return f"node{index}"


def hold(mark: str, log: Path, administrator: bool, inside: int | None = None) -> Started:
    """Start a process that holds a new network namespace, and wait until it does.

    Args:
        mark: mark of the process.
        log: where its complaints go.
        administrator: see :func:`unavailable`.
        inside: holder of the user namespace to make it in; None makes one where needed.
    """
    if inside is None:
        command = ["unshare", *_user(administrator), "--net", "sleep", "infinity"]
    else:
        command = [*entering(inside, administrator), "unshare", "--net", "sleep", "infinity"]
    process = start(command, mark, log, dict(os.environ))
    deadline = time.monotonic() + _HOLDER_SECONDS
    while time.monotonic() < deadline:
        try:
            # The holder becomes `sleep` when its namespaces are there.
            if psutil.Process(process.pid).name() == "sleep":
                return process
        except psutil.NoSuchProcess:
            break
        if not process.alive():
            break
        time.sleep(0.02)
    reason = (log.read_text(errors="replace").strip().splitlines() or ["no reason given"])[-1]
    raise CodexRayError(
        f"a network namespace could not be made ({reason}); give isolation=processes to do without"
    )


def _done(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; one that takes too long has failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        reason = f"it took more than {_COMMAND_SECONDS:g} s"
        return subprocess.CompletedProcess(command, 124, "", reason)


def _run(command: Sequence[str]) -> None:
    done = _done(command)
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise CodexRayError(
            f"`{' '.join(command)}` failed ({reason}); give isolation=processes to do without network "
            "namespaces"
        )
