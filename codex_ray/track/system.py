"""Sampling a node's load beside a run: CPU, memory, disk, network and GPUs, a JSON line at a time.

One worker of each node samples it, to ``system_NODE.jsonl`` in the attempt's folder.
"""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from codex_ray.errors import CodexRayError
from codex_ray.track.environment import nvidia_smi

GPU_FIELDS = ("utilization.gpu", "memory.used", "power.draw", "temperature.gpu")
GPU_SECONDS = 2.0  # longest wait for nvidia-smi
LINE_BYTES = 8192  # more than a line is long

_LOG = logging.getLogger(__name__)


class SystemSampler:
    """A thread that appends one line to a file at an interval; use it in a ``with`` block.

    GPU fields appear where nvidia-smi does. A failure ends the sampling with one warning.

    Args:
        path: the file; its folder names the disk that is measured.
        interval_seconds: time between samples; one more is taken on stopping. 0 samples nothing.
    """

    def __init__(self, path: Path, interval_seconds: float = 10.0) -> None:
        self._path, self._interval = path, interval_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-sampler", daemon=True)

    def __enter__(self) -> SystemSampler:
        if self._interval > 0:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=GPU_SECONDS + 3.0)

    def _run(self) -> None:
        import psutil

        try:
            psutil.cpu_percent()  # the first call only starts the measurement
            before = _counters()
            self._stop.wait(min(0.2, self._interval))
            with self._path.open("a", encoding="utf-8", buffering=1) as stream:
                while True:
                    last = self._stop.is_set()
                    now = _counters()
                    stream.write(json.dumps(sample(self._path.parent) | _rates(before, now)) + "\n")
                    before = now
                    if last:
                        return
                    self._stop.wait(self._interval)
        except (OSError, psutil.Error, RuntimeError, CodexRayError) as error:  # psutil: not implemented here
            _LOG.warning("the machine's load is no longer sampled to %s (%s)", self._path, error)


def sample(folder: Path) -> dict[str, Any]:
    """Measure the machine once; ``folder`` names the disk.

    ``rss_bytes`` adds up the process above this one, which is Ray's of this node where this is a worker, and
    all below it, so memory they share counts repeatedly.
    """
    import psutil

    memory, disk, process = psutil.virtual_memory(), psutil.disk_usage(str(folder)), psutil.Process()
    return {
        "time": time.time(),
        "cpu_percent": psutil.cpu_percent(),
        "load": psutil.getloadavg()[0],
        "memory_used_bytes": memory.total - memory.available,
        "memory_total_bytes": memory.total,
        "rss_bytes": _tree_rss(process.parent() or process),
        "disk_free_bytes": disk.free,
        **_gpu_figures(),
    }


def newest_samples(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the newest whole sample of each node in an attempt's folder, by node."""
    found: dict[str, dict[str, Any]] = {}
    for path in folder.glob("system_*.jsonl"):
        with suppress(OSError), path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - 2 * LINE_BYTES))
            lines = stream.read().split(b"\n")[:-1]
            samples = (one for one in map(_parsed, reversed(lines)) if "time" in one)
            found |= {path.stem.removeprefix("system_"): one for one in itertools.islice(samples, 1)}
    return found


def _parsed(line: bytes) -> dict[str, Any]:
    """Return what a line holds; nothing where it was torn."""
    with suppress(ValueError):
        found = json.loads(line)
        return found if isinstance(found, dict) else {}
    return {}


def _counters() -> dict[str, float]:
    """Bytes that the node's disks and network have moved, and when."""
    import psutil

    disk, network = psutil.disk_io_counters(), psutil.net_io_counters()
    found = {"time": time.monotonic()}
    if disk is not None:
        found |= {"disk_read": disk.read_bytes, "disk_written": disk.write_bytes}
    if network is not None:
        found |= {"network_received": network.bytes_recv, "network_sent": network.bytes_sent}
    return found


def _rates(before: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    seconds = max(now["time"] - before["time"], 1e-3)
    moved = {name: now[name] - before[name] for name in now if name in before and name != "time"}
    return {f"{name}_bytes_per_second": max(0.0, bytes_ / seconds) for name, bytes_ in moved.items()}


def _tree_rss(process: Any) -> int:
    import psutil

    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it ended while we were adding up
    return total


def _gpu_figures() -> dict[str, float]:
    figures: dict[str, float] = {}
    for index, card in enumerate(nvidia_smi(*GPU_FIELDS, seconds=GPU_SECONDS)):
        for field, text in card.items():
            try:
                figures[f"gpu{index}_{field.replace('.', '_')}"] = float(text)
            except ValueError:
                continue  # "[N/A]": this card does not measure it
    return figures
