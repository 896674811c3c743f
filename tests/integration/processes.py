"""Groups of gloo processes that tests share: importing torch and DeepSpeed takes longer than most tests."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

SECONDS = 280.0
"""Longest run of one function: less than a test's own limit."""


class Group:
    """``world`` processes, one rank each, that do what they are told until this process ends."""

    def __init__(self, world: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = multiprocessing.get_context("spawn")
        self._ends, self._processes = [], []
        for rank in range(world):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, world, port, theirs), daemon=True)
            process.start()
            theirs.close()  # so that a process that dies is the end of its pipe
            self._ends.append(ours)
            self._processes.append(process)

    def run(self, function: Callable[..., None], *args: Any) -> None:
        """Have each rank call ``function(rank, world, *args)``; the first error of any is raised here."""
        for end in self._ends:
            end.send((function, args))
        waited, deadline = list(self._ends), time.monotonic() + SECONDS
        while waited:
            ready = wait(waited, max(0.0, deadline - time.monotonic()))
            assert ready, f"ranks {[self._ends.index(end) for end in waited]} did not end in {SECONDS:g} s"
            for end in ready:
                try:
                    error = end.recv()  # type: ignore[union-attr]
                except EOFError:
                    error = "its process ended"
                assert error is None, f"rank {self._ends.index(end)}: {error}"  # type: ignore[arg-type]
                waited.remove(end)  # type: ignore[arg-type]

    def close(self) -> None:
        """End the processes, whatever they do."""
        for process in self._processes:
            process.kill()
            process.join()


_groups: dict[int, Group] = {}


def in_processes(world: int, function: Callable[..., None], *args: Any, alone: bool = False) -> None:
    """Call ``function(rank, world, *args)`` in each of ``world`` processes, which then last.

    With ``alone`` they are new and end: what it leaves in a process would change what comes after it.
    """
    group = (None if alone else _groups.pop(world, None)) or Group(world)
    try:
        group.run(function, *args)
    except BaseException:
        alone = True
        raise
    finally:
        if alone:
            group.close()
        else:
            _groups[world] = group


@atexit.register
def _close() -> None:
    while _groups:
        _groups.popitem()[1].close()


def _serve(rank: int, world: int, port: int, end: Connection) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    while True:
        try:
            function, args = end.recv()
        except EOFError:  # the tests' process is gone
            # gloo's threads sometimes abort a process that takes its group apart at exit.
            os._exit(0)
        try:
            function(rank, world, *args)
            dist.barrier()
        except BaseException:
            end.send(traceback.format_exc())
            os._exit(1)
        end.send(None)
