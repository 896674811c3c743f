"""Starting processes that outlive us, and finding and ending every one of them later.

Each process of a local cluster inherits a mark in its environment, a random name that no other process
has. Whatever a node starts (workers, jobs, what these start) carries it too, in whichever process group,
so ending a node is ending the bearers of its mark, their descendants and whoever is in its namespace.
psutil compares start times before it signals: a process id that was used again is never touched.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "CODEX_RAY_LOCAL_NODE"
_END_SECONDS = 15.0

# Handles of what this process started: polled, so that none stays behind as a zombie of ours.
_started: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class Started:
    """A process told from any later one with its process id by when it started.

    Attributes:
        pid: its process id.
        at: its start time, in seconds since the epoch.
    """

    pid: int
    at: float

    def alive(self) -> bool:
        """Say whether it still runs."""
        _poll()
        try:
            process = psutil.Process(self.pid)
        except psutil.NoSuchProcess:
            return False
        return abs(process.create_time() - self.at) < 1.0 and not _ended(process)


def start(
    command: Sequence[str],
    mark: str,
    log: Path,
    environment: Mapping[str, str],
    keep: Sequence[int] = (),
) -> Started:
    """Start a marked process in a session of its own, its output in ``log``.

    Args:
        command: program and arguments.
        mark: what the process and all it starts are found by.
        log: file that takes both outputs.
        environment: the process's whole environment, without the mark.
        keep: open files that it inherits under the same numbers.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command,
            # Ray's processes write their titles over their environment, and the mark, unless told not to.
            env={**environment, MARK: mark, "SPT_NOENV": "1"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            pass_fds=tuple(keep),
        )
    _started.append(process)
    return Started(process.pid, psutil.Process(process.pid).create_time())


def find(mark: str, namespaces: Sequence[int] = ()) -> list[psutil.Process]:
    """Return the running processes with a mark, their descendants, and those that live in ``namespaces``.

    Args:
        mark: beginning of the mark.
        namespaces: inode numbers of network namespaces.
    """
    _poll()
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        try:
            marked = process.environ().get(MARK, "").startswith(mark)
            if marked or (namespaces and Path(f"/proc/{process.pid}/ns/net").stat().st_ino in namespaces):
                found |= {process, *process.children(recursive=True)}
        except (psutil.Error, OSError):
            continue  # ended meanwhile, or another user's: not ours
    return [process for process in found if process.pid != os.getpid() and not _ended(process)]


def end(mark: str, holders: Sequence[Started] = ()) -> list[psutil.Process]:
    """Kill every process that bears a mark or lives in a namespace; return what survives a deadline.

    Args:
        mark: beginning of the mark.
        holders: processes whose network namespaces are meant; ended ones mean none.
    """
    with contextlib.ExitStack() as pins:
        # An open namespace keeps its number: killing its holder cannot give the number to a stranger's.
        namespaces = [number for holder in holders if (number := _pinned(pins, holder))]
        deadline = time.monotonic() + _END_SECONDS
        while found := find(mark, namespaces):
            for process in found:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(found, timeout=1.0)
            if time.monotonic() > deadline:
                return find(mark, namespaces)
    return []


def _pinned(pins: contextlib.ExitStack, holder: Started) -> int | None:
    """Open the namespace of ``holder`` until ``pins`` close, and return its number."""
    try:
        handle = os.open(f"/proc/{holder.pid}/ns/net", os.O_RDONLY)
    except OSError:
        return None
    pins.callback(os.close, handle)
    # Asked after opening: what was opened is then the holder's own. Ours is never meant.
    number = os.fstat(handle).st_ino
    return number if holder.alive() and number != Path("/proc/self/ns/net").stat().st_ino else None


def _ended(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _poll() -> None:
    """Take note of children that ended."""
    _started[:] = [process for process in _started if process.poll() is None]
