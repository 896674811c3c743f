"""Two processes that meet as training workers do, and what lies between them: latency and bandwidth."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from codex_ray.doctor.finding import FAILED, OK, Finding

if TYPE_CHECKING:
    from torch import Tensor

_ROUND_TRIPS, _TRANSFERS = 50, 5
MOST_PAIRS = 120  # sixteen nodes, each with every other; of more, each meets the next one


@dataclass(frozen=True)
class Link:
    """What was measured between two nodes.

    Attributes:
        nodes: their addresses.
        seconds: of a message one way, the median.
        bytes_per_second: one way, the best of a few.
        error: why they did not meet; empty where they did.
    """

    nodes: tuple[str, str]
    seconds: float = 0.0
    bytes_per_second: float = 0.0
    error: str = ""


def pairs(count: int) -> list[tuple[int, int]]:
    """Return which nodes are to meet; a single one meets itself, in two processes."""
    if count == 1:
        return [(0, 0)]
    every = [(first, second) for first in range(count) for second in range(first + 1, count)]
    return every if len(every) <= MOST_PAIRS else [(one, (one + 1) % count) for one in range(count)]


class Meeting:
    """One side of a pair, with the process group that training uses.

    Args:
        backend: ``gloo``, or ``nccl`` with a GPU for each side.
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._store: Any = None

    def listen(self, address: str, seconds: float) -> int:
        """Open the place where both find each other, on the first side; returns its port."""
        self._store = _store(address, 0, seconds, first=True)
        return int(self._store.port)

    def measure(
        self, rank: int, address: str, port: int, transfer_bytes: int, seconds: float
    ) -> tuple[float, float]:
        """Meet the other side; returns seconds of a message and bytes a second, each one way."""
        import torch

        store = self._store or _store(address, port, seconds, first=False)
        group = _process_group(self._backend, store, rank, seconds)
        device = "cuda" if self._backend == "nccl" else "cpu"
        small = torch.zeros(1, device=device)
        large = torch.zeros(transfer_bytes // 4, device=device)
        _there_and_back(group, small, rank)  # connects
        trips = [_there_and_back(group, small, rank) for _ in range(_ROUND_TRIPS)]
        moves = [_there_and_back(group, large, rank) for _ in range(_TRANSFERS)]
        return statistics.median(trips) / 2, large.nbytes * 2 / min(moves)


def _store(address: str, port: int, seconds: float, *, first: bool) -> Any:
    import torch.distributed as dist

    wait = timedelta(seconds=seconds)
    return dist.TCPStore(address, port, 2, first, wait, wait_for_workers=False)  # type: ignore[attr-defined]


def _process_group(backend: str, store: Any, rank: int, seconds: float) -> Any:
    """Return a group of two, apart from torch's global one, of which a process has a single one."""
    import torch.distributed as dist

    if backend == "gloo":
        return dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=seconds))
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timedelta(seconds=seconds)
    return dist.ProcessGroupNCCL(store, rank, 2, options)


def _there_and_back(group: Any, tensor: Tensor, rank: int) -> float:
    import torch

    started = time.perf_counter()
    for sender in (0, 1):
        move = group.send if sender == rank else group.recv
        move([tensor], 1 - rank, 0).wait()
    if tensor.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def meet_here(transfer_bytes: int, seconds: float) -> Finding:
    """Let two threads of this process meet over gloo, as workers of one machine do."""
    names, address = ("this machine", "itself"), "127.0.0.1"
    first, second = Meeting("gloo"), Meeting("gloo")
    try:
        port = first.listen(address, seconds)
        with ThreadPoolExecutor(2) as threads:
            sides = [
                threads.submit(side.measure, rank, address, port, transfer_bytes, seconds)
                for rank, side in enumerate((first, second))
            ]
            link = Link(names, *sides[0].result())
    except Exception as error:
        link = Link(names, error=last_line(error))
    return link_finding("gloo", [link])


def last_line(error: BaseException) -> str:
    """Return the last words of an error, which in Ray's and torch's are the reason."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip()[:300] if lines else type(error).__name__


def link_finding(backend: str, links: Sequence[Link]) -> Finding:
    """Make one line of what was measured: the slowest pair, or those that did not meet."""
    figures = {
        " - ".join(link.nodes): {"seconds": link.seconds, "bytes_per_second": link.bytes_per_second}
        for link in links
        if not link.error
    }
    broken = [link for link in links if link.error]
    if broken:
        words = "; ".join(f"{' and '.join(link.nodes)}: {link.error}" for link in broken[:3])
        more = f" (and {len(broken) - 3} more)" if len(broken) > 3 else ""
        remedy = (
            "open all ports between the nodes; name the interface that joins them in "
            f"{'GLOO' if backend == 'gloo' else 'NCCL'}_SOCKET_IFNAME, set where `ray start` runs"
        )
        found = f"{len(broken)} of {len(links)} pairs do not meet: {words}{more}"
        return Finding(backend, FAILED, found, remedy, figures)
    if len(links) == 1:
        link = links[0]
        speed = f"{link.bytes_per_second / 1e9:.2f} GB/s, {link.seconds * 1e6:.0f} µs"
        return Finding(backend, OK, f"{' and '.join(link.nodes)} meet: {speed}", figures=figures)
    slowest = min(links, key=lambda link: link.bytes_per_second)
    furthest = max(links, key=lambda link: link.seconds)
    found = (
        f"{len(links)} pairs meet; "
        f"slowest {slowest.bytes_per_second / 1e9:.2f} GB/s ({' - '.join(slowest.nodes)}), "
        f"furthest {furthest.seconds * 1e6:.0f} µs ({' - '.join(furthest.nodes)})"
    )
    return Finding(backend, OK, found, figures=figures)
