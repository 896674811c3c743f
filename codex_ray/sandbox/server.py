"""The fork server: a small process that starts sandboxes in milliseconds, from an interpreter that is warm.

It is started apart from Ray, with an empty environment and nothing of its starter's but one socket. It has
imported what programs may use; a sandbox is a fork of it. It holds one sandbox at a time, watches its time
and memory, and ends it. Its starter hands over the pipes and talks to the program itself.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import re
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

PIPES = 4
_WATCH_SECONDS = 0.02
_END_SECONDS = 10.0
_HELD = re.compile(r"^Rss(?:Anon|Shmem):\s+(\d+) kB$", re.MULTILINE)


def main() -> None:
    """Serve until the starter is gone."""
    settings = json.loads(sys.argv[1])
    control = socket.socket(fileno=int(sys.argv[2]))
    sys.path += [path for path in settings["folders"] if path not in sys.path]
    sys.argv = ["program.py"]
    from codex_ray.sandbox.layers import LAYERS, SHARED, flags, missing
    from codex_ray.sandbox.root import Root

    absent = missing()
    told: dict[str, Any] = {"missing": absent}
    for module in settings["modules"]:
        try:
            importlib.import_module(module)
        except Exception as error:  # the starter says which package cannot be had
            told["broken"] = f"{module} cannot be imported ({type(error).__name__}: {error})"
    root = Root(settings["packages"])
    gc.collect()
    gc.freeze()  # forks share what is there
    gc.disable()
    layers = [layer for layer in LAYERS if layer not in absent]
    _move(flags(set(layers) & set(SHARED)), users="users" in layers)
    if "network" in layers:
        socket.sethostname("sandbox")
    control.send(json.dumps(told).encode())
    while True:
        message, pipes, _, _ = socket.recv_fds(control, 65536, PIPES)
        if not message:
            return
        if pipes:  # else a request to end what has ended already
            told = Run(layers, root, json.loads(message), list(pipes), control).finish()
            control.send(json.dumps(told).encode())


class Run:
    """One sandbox, from start to end.

    Args:
        layers: that hold it.
        root: what it sees of files.
        limits: that bound it.
        pipes: requests, replies, output, errors.
        control: where the starter may ask for its end.
    """

    def __init__(
        self, layers: list[str], root: Any, limits: dict[str, Any], pipes: list[int], control: socket.socket
    ) -> None:
        from codex_ray.sandbox.cell import Cell

        self.limits, self._control, self._began = limits, control, time.monotonic()
        self._own_bytes = _held_bytes([os.getpid()], 0)
        self._status, status = os.pipe()
        self._keeper = os.fork()
        if self._keeper == 0:
            os.close(control.fileno())
            os.close(self._status)
            Cell(layers, root, limits, pipes, status).keep()
        for theirs in (*pipes, status):
            os.close(theirs)

    def finish(self) -> dict[str, Any]:
        """Watch until it ends or has to; return how it went."""
        try:
            words = self._watch()
        finally:
            self._end()
            os.close(self._status)
        return {"seconds": time.monotonic() - self._began, **words}

    def _told(self) -> dict[str, Any]:
        with contextlib.suppress(ValueError):
            words: dict[str, Any] = json.loads(os.read(self._status, 4096).split(b"\n")[0])
            return words
        return {"refused": "it ended before its program did"}

    def _watch(self) -> dict[str, Any]:
        deadline = self._began + self.limits["wall_seconds"]
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return {"over": "time"}
            ready, _, _ = select.select(
                [self._status, self._control.fileno()], [], [], min(left, _WATCH_SECONDS)
            )
            if self._status in ready:
                return self._told()
            if self._control.fileno() in ready:  # the starter wants it ended, or is gone
                return {"over": "stopped"} if self._control.recv(1) else sys.exit(0)
            inside = _below(self._keeper)
            if _held_bytes(inside, self._own_bytes) > self.limits["memory_bytes"]:
                return {"over": "memory"}
            if len(inside) > self.limits["processes"] + 1:  # the first process counts too
                return {"over": "processes"}

    def _end(self) -> None:
        """Kill all of it, and wait until it is gone."""
        deadline = time.monotonic() + _END_SECONDS
        while os.waitpid(self._keeper, os.WNOHANG)[0] == 0:
            inside = _below(self._keeper)
            for process in inside or [self._keeper]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            if time.monotonic() > deadline:
                sys.exit(f"processes {inside} of a sandbox do not end")
            time.sleep(0.0005)


def _move(namespaces: int, *, users: bool) -> None:
    """Take namespaces for this process and all its children; a child says which users they have.

    Root makes its mounts as root and then becomes nobody; anybody else is that user throughout.
    """
    from codex_ray.sandbox import kernel
    from codex_ray.sandbox.cell import NOBODY

    own = (os.geteuid(), os.getegid())
    with contextlib.suppress(PermissionError):  # where groups cannot be set they give no rights either
        os.setgroups([])
    folder, (moved, let_go) = Path(f"/proc/{os.getpid()}"), os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(let_go)
        if os.read(moved, 1) and users:
            folder.joinpath("setgroups").write_text("deny")
            both = f"0 0 1\n{NOBODY} {NOBODY} 1\n"
            if own[0] != 0 or not _mapped(folder, both, both):
                _mapped(folder, *(f"{NOBODY} {number} 1\n" for number in own))
        os._exit(0)
    kernel.unshare(namespaces)
    os.write(let_go, b".")
    os.waitpid(helper, 0)
    if users and os.geteuid() not in (0, NOBODY):
        sys.exit("the kernel does not let the users of a sandbox be named")
    os.close(moved)
    os.close(let_go)


def _mapped(folder: Path, users: str, groups: str) -> bool:
    """Write both maps; say whether this may be, which it may not where root has no other user to give."""
    try:
        folder.joinpath("gid_map").write_text(groups)
        folder.joinpath("uid_map").write_text(users)
    except OSError:
        return False
    return True


def _below(process: int) -> list[int]:
    """Return all descendants of a process."""
    found: list[int] = []
    left = [process]
    while left:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{left.pop()}/task").iterdir():
                children = [int(word) for word in task.joinpath("children").read_text().split()]
                found += children
                left += children
    return found


def _held_bytes(processes: list[int], less: int) -> int:
    """Return the memory that processes hold and no file backs, less what forks have at first.

    Memory that several share counts for each: without cgroups nothing says how often it was counted.
    """
    total = 0
    for process in processes:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process}/status").read_text()
            held = sum(int(found) for found in _HELD.findall(status))
            total += max(0, held * 1024 - less)
    return total


if __name__ == "__main__":
    main()
