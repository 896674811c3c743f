"""What the tests of the sandbox share: one with small limits, and ways to look at it from outside."""

from __future__ import annotations

import re
import time

import psutil

from codex_ray.config.sandbox import Sandbox as Settings
from codex_ray.sandbox.sandbox import Sandbox

LIMITS = Settings(
    wall_seconds=5.0,
    cpu_seconds=4,
    memory_bytes=2**27,
    processes=8,
    output_bytes=10_000,
    result_bytes=100_000,
    disk_bytes=2**22,
)


def server_of(sandbox: Sandbox) -> psutil.Process:
    assert sandbox._server is not None
    return psutil.Process(sandbox._server.pid)


def children(sandbox: Sandbox, wait_for: int = 0) -> list[psutil.Process]:
    """Return the processes of what runs in a sandbox, once there are enough."""
    deadline = time.monotonic() + 20
    while (
        len(found := server_of(sandbox).children(recursive=True)) < wait_for and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    assert len(found) >= wait_for
    return found


def refused(sandbox: Sandbox, line: str, errors: str = "PermissionError|Operation not permitted") -> None:
    """Check that a line raises one of some errors, and that this reaches the reason."""
    found = sandbox.call("import os, socket, ctypes, signal, sys\ndef f():\n    " + line, "f")
    assert found.failure == "raised" and re.search(errors, found.reason), found
