from __future__ import annotations

import ipaddress
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from codex_ray.cluster.namespaces import (
    Bridge,
    choose_rights,
    entering,
    free_subnet,
    hold,
    unavailable,
)
from codex_ray.cluster.processes import end, find
from codex_ray.errors import CodexRayError

# A gateway may accept connections to anywhere: only the answer says who is there.
CONNECT = (
    "import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 1)\n"
    "s.settimeout(2); sys.exit(s.recv(9) != b'node 2')"
)
LISTEN = (
    "import socket, sys; s = socket.create_server((sys.argv[1], 5000)); print('ready', flush=True)\n"
    "while True:\n  c = s.accept()[0]; c.sendall(b'node 2'); c.close()"
)
RIGHTS = [right for right in (True, False) if unavailable(right) is None]


@pytest.fixture(params=RIGHTS, ids=lambda right: "administrator" if right else "user")
def bridge(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Bridge, list[int]]]:
    """A bridge with two namespaces on it, and their holders."""
    administrator, name = request.param, secrets.token_hex(3)
    before = set(psutil.net_if_addrs())
    hub = hold(f"{name}:", tmp_path / "hub", administrator)
    bridge = Bridge(name, str(free_subnet()), administrator, hub.pid)
    holders = []
    try:
        bridge.build()
        for index in (1, 2):
            holders.append(hold(f"{name}:", tmp_path / "node", administrator, inside=hub.pid))
            assert bridge.attach(index, holders[-1].pid) == "eth0"
        if administrator:
            assert bridge.attach(0, None) == f"cr{name}"
            assert bridge.on_machine()
        yield bridge, [holder.pid for holder in holders]
    finally:
        assert end(f"{name}:", holders) == []
        bridge.remove_from_machine()
    assert not bridge.on_machine()
    assert find(f"{name}:") == []
    assert set(psutil.net_if_addrs()) == before


def test_nodes_reach_each_other_until_the_cable_is_out_and_after_it_is_back(bridge):
    bridge, (first, second) = bridge
    inside = entering(second, bridge.administrator)
    listener = subprocess.Popen(
        [*inside, sys.executable, "-c", LISTEN, bridge.address(2)], stdout=subprocess.PIPE, text=True
    )
    assert listener.stdout is not None
    assert listener.stdout.readline() == "ready\n"

    def reached(words: list[str]) -> bool:
        command = [*words, sys.executable, "-c", CONNECT, bridge.address(2), "5000"]
        return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0

    one = entering(first, bridge.administrator)
    assert reached(one)
    assert reached([]) == bridge.administrator  # from the machine's own network
    bridge.cut(2)
    assert not reached(one)
    bridge.heal(2)
    assert reached(one)
    # What lives in the namespace without our mark is ended with it.
    listener.stdout.close()
    assert listener.poll() is None


def test_the_range_of_addresses_is_private_and_not_in_use():
    subnet = free_subnet()
    assert subnet.is_private
    assert subnet.prefixlen == 24
    used = [a.address for addresses in psutil.net_if_addrs().values() for a in addresses]
    assert not any(ipaddress.ip_address(a) in subnet for a in used if a.count(".") == 3)


def test_processes_need_no_rights_and_what_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert choose_rights("processes") is None
    assert choose_rights("auto") is None
    with pytest.raises(CodexRayError, match=r"the program ip \(package iproute2\) is missing.*processes"):
        choose_rights("namespaces")


def test_a_refusal_of_the_kernel_is_given_in_its_words(monkeypatch, tmp_path):
    for tool in ("ip", "unshare", "nsenter"):
        (tmp_path / tool).write_text(
            "#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2; exit 1\n"
        )
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    assert unavailable(False) == "the kernel refuses (unshare failed: Operation not permitted)"
    with pytest.raises(CodexRayError, match=r"a network namespace could not be made .*not permitted"):
        hold("none:", tmp_path / "log", administrator=False)
