"""The layers that hold sandboxed code, and which of them this host gives."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from codex_ray.sandbox import kernel
from codex_ray.sandbox.filter import confine

LAYERS = {
    "users": "code runs as the user that runs codex_ray",
    "files": "code reads and writes whatever files that user may",
    "network": "code shares the host's network, which the system call filter alone keeps it from",
    "processes": "code shares the host's processes, and what it leaves running has to be looked for",
    "system_calls": "every system call is open: sockets, other programs, tracing, a kernel's defects",
}
"""What each layer's absence means."""

_NAMESPACES = {
    "users": kernel.CLONE_NEWUSER,
    "files": kernel.CLONE_NEWNS,
    "network": kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS,
    "processes": kernel.CLONE_NEWPID,
}
SHARED = ("users", "network")
"""Taken once by the server, for its sandboxes one after another: nothing can be left in an empty network."""

SCRATCH = "/sys"  # there on every Linux, and nothing that a sandbox shows lies in it


def flags(layers: Iterable[str]) -> int:
    """Return the namespaces of some layers, as ``unshare`` takes them."""
    return sum(_NAMESPACES.get(layer, 0) for layer in layers)


def missing() -> dict[str, str]:
    """Return the layers that this host does not give, each with the kernel's words.

    To be called in a process of one thread: each layer is tried in a child.
    """
    found = {}
    users = _tried(lambda: kernel.unshare(flags(["users"])))
    if users:
        found["users"] = users
    base = [] if users else ["users"]
    for layer in ("files", "network", "processes"):
        reason = _tried(lambda layer=layer: _take(layer, base))  # type: ignore[misc]
        if reason:
            found[layer] = reason
    reason = _tried(confine)
    if reason:
        found["system_calls"] = reason
    return found


def _take(layer: str, base: list[str]) -> None:
    kernel.unshare(flags([*base, layer]))
    if layer == "files":
        kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("tmpfs", SCRATCH, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV)
        kernel.restrict_mount(SCRATCH, kernel.ATTR_RDONLY)
    if layer == "processes":
        os.waitpid(os.fork() or os._exit(0), 0)  # the first process of the new namespace


def _tried(attempt: Callable[[], None]) -> str:
    """Return why an attempt fails, in a child that ends with it; empty where it does not."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        words = b""
        try:
            attempt()
        except OSError as error:
            words = str(error).encode()
        os.write(writing, words)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        reason = pipe.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    return reason or ("" if status == 0 else f"a trial ended with status {status}")
