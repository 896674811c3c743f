"""Sampling the machine's load beside a run: CPU, memory, disk and GPUs, to system.jsonl."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

from codex_ray.errors import CodexRayError
from codex_ray.track.environment import nvidia_smi

GPU_FIELDS = ("utilization.gpu", "memory.used", "power.draw", "temperature.gpu")
GPU_SECONDS = 2.0  # longest wait for nvidia-smi

_LOG = logging.getLogger(__name__)


class SystemSampler:
    """A thread that appends one line to system.jsonl at an interval; use it in a ``with`` block.

    ``rss_bytes`` adds up this process and all below it, so memory they share counts repeatedly.
    GPU fields appear where nvidia-smi does. A failure ends the sampling with one warning.

    Args:
        folder: the run folder.
        interval_seconds: time between samples; one more is taken on stopping.
    """

    def __init__(self, folder: Path, interval_seconds: float = 10.0) -> None:
        self.path = folder / "system.jsonl"
        self._interval = interval_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-sampler", daemon=True)

    def start(self) -> None:
        """Begin sampling."""
        self._thread.start()

    def stop(self) -> None:
        """Take a last sample and end, within a few seconds."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=GPU_SECONDS + 3.0)

    def __enter__(self) -> SystemSampler:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        import psutil

        psutil.cpu_percent()  # the first call only starts the measurement
        self._stop.wait(min(0.2, self._interval))
        try:
            with self.path.open("a", encoding="utf-8", buffering=1) as stream:
                while True:
                    last = self._stop.is_set()
                    stream.write(json.dumps(sample(self.path.parent)) + "\n")
                    if last:
                        return
                    self._stop.wait(self._interval)
        except (OSError, psutil.Error, CodexRayError) as error:
            _LOG.warning("the machine's load is no longer sampled to %s (%s)", self.path, error)


def sample(folder: Path) -> dict[str, Any]:
    """Measure the machine once; ``folder`` names the disk."""
    import psutil

    memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(folder))
    return {
        "time": time.time(),
        "cpu_percent": psutil.cpu_percent(),
        "load": psutil.getloadavg()[0],
        "memory_used_bytes": memory.total - memory.available,
        "memory_total_bytes": memory.total,
        "rss_bytes": _tree_rss(psutil.Process()),
        "disk_free_bytes": disk.free,
        **_gpu_figures(),
    }


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
