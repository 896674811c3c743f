"""One sandbox from within: three processes that a fork server starts for each run.

The keeper takes new namespaces and waits. Its child is the first process of the new process namespace: it
makes the private root, gives up every right, starts the program and tells how it ended; when it ends, the
kernel kills whatever is left. The program's own process sets its limits and the system call filter, then
serves.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import resource
import signal
import sys
from dataclasses import dataclass
from typing import Any

from codex_ray.sandbox import kernel
from codex_ray.sandbox.child import serve
from codex_ray.sandbox.filter import confine
from codex_ray.sandbox.layers import SHARED, flags
from codex_ray.sandbox.root import Root

NOBODY = 65534
INPUT, OUTPUT, ERRORS, REQUESTS, REPLIES = 0, 1, 2, 3, 4
_OPEN_FILES = 256
_PAGE = resource.getpagesize()


@dataclass(frozen=True)
class Cell:
    """What one run is to be held by.

    Attributes:
        layers: that this host gives.
        root: what is seen of files.
        limits: settings of :class:`~codex_ray.config.sandbox.Sandbox`, as plain data.
        pipes: requests, replies, standard output and standard error.
        status: pipe to tell how it went, as one line of JSON.
    """

    layers: list[str]
    root: Root
    limits: dict[str, Any]
    pipes: list[int]
    status: int

    def keep(self) -> None:
        """Be the keeper; ends the process."""
        try:
            _die_with_parent()
            kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
            os.setsid()
            kernel.unshare(flags(layer for layer in self.layers if layer not in SHARED))
            child = os.fork()
            if child == 0:
                self._begin()
            self._let_go(self.status, *self.pipes)
            while True:
                os.wait()  # also for what has lost its parent, where there is no process namespace
        except ChildProcessError:
            os._exit(0)
        except BaseException as error:
            self._tell(refused=f"{type(error).__name__}: {error}")
        finally:
            os._exit(1)

    def _begin(self) -> None:
        """Be the first process inside; ends the process."""
        try:
            _die_with_parent()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            size, root = _address_space(), os.geteuid() == 0
            if "files" in self.layers:
                self.root.enter(self.limits["disk_bytes"])
            else:
                os.chdir(self.limits["folder"])
                if root:
                    os.chown(".", NOBODY, NOBODY)
            if "users" in self.layers or root:
                kernel.become(NOBODY)
            kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
            _die_with_parent()  # giving up rights has undone it
            program = os.fork()
            if program == 0:
                # This process counts too; of anybody but root, the keeper and the server as well.
                counted = self.limits["processes"] + (1 if root else 3)
                self._run(size, counted if "users" in self.layers or root else None)
            self._let_go(*self.pipes)
            used = _wait_for(program)
            self._tell(**used)
        except BaseException as error:
            self._tell(refused=f"{type(error).__name__}: {error}")
        finally:
            os._exit(0)

    def _run(self, size: int, processes: int | None) -> None:
        """Be the program's process; ends it."""
        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            for place, pipe in zip((REQUESTS, REPLIES, OUTPUT, ERRORS), _above(self.pipes), strict=True):
                os.dup2(pipe, place)
            for name, place in (("stdout", OUTPUT), ("stderr", ERRORS)):
                stream = open(place, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
                setattr(sys, name, stream)
            self._limit(size, processes)
            if "system_calls" in self.layers:
                confine()
            gc.enable()
        except BaseException as error:
            self._tell(refused=f"{type(error).__name__}: {error}")
            os._exit(1)
        os.closerange(max(REQUESTS, REPLIES) + 1, 65536)
        try:
            serve(REQUESTS, REPLIES)
            status = 0
        except BaseException:  # the program may have broken whatever serves it
            status = 1
        os._exit(status)

    def _limit(self, size: int, processes: int | None) -> None:
        cpu, disk = self.limits["cpu_seconds"], self.limits["disk_bytes"]
        limits = {
            resource.RLIMIT_AS: size + self.limits["memory_bytes"],
            resource.RLIMIT_CPU: cpu,
            resource.RLIMIT_FSIZE: disk,
            resource.RLIMIT_NOFILE: _OPEN_FILES,
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_MEMLOCK: 0,
            resource.RLIMIT_MSGQUEUE: 0,
            resource.RLIMIT_SIGPENDING: 64,
        }
        if processes is not None:  # else it would count all that the user runs on this host
            limits[resource.RLIMIT_NPROC] = processes
        for which, most in limits.items():
            _, hard = resource.getrlimit(which)
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            over = 1 if which == resource.RLIMIT_CPU and hard == resource.RLIM_INFINITY else 0
            resource.setrlimit(which, (most, most + over))

    def _tell(self, **words: Any) -> None:
        os.write(self.status, json.dumps(words).encode() + b"\n")

    def _let_go(self, *pipes: int) -> None:
        for pipe in pipes:
            os.close(pipe)


def _die_with_parent() -> None:
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)


def _address_space() -> int:
    """Bytes of addresses that this process has: the interpreter, and what was imported ahead."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[0]) * _PAGE


def _above(pipes: list[int]) -> list[int]:
    """Move pipes to numbers that no place of theirs overwrites."""
    return [fcntl.fcntl(pipe, fcntl.F_DUPFD, 64) for pipe in pipes]


def _wait_for(program: int) -> dict[str, Any]:
    while True:
        pid, status, used = os.wait4(-1, 0)
        if pid == program:
            break
    code = os.waitstatus_to_exitcode(status)
    return {"exit": code, "cpu_seconds": used.ru_utime + used.ru_stime, "peak_bytes": used.ru_maxrss * 1024}
