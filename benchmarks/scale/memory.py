"""The most memory that Ray's processes, each and together, and this one held for a while."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

SECONDS = 0.25  # between two looks


@dataclass
class Peaks:
    """Bytes that belong to a process alone; the object store is shared and not counted."""

    driver: int = 0
    task: int = 0
    together: int = 0


@contextmanager
def watched() -> Iterator[Peaks]:
    """Watch this process and its descendants until the block ends."""
    peaks, done = Peaks(), threading.Event()

    def watch() -> None:
        own = psutil.Process()
        while not done.wait(SECONDS):
            driver, others = _private(own), [0]
            tasks = [0]
            for child in own.children(recursive=True):
                with suppress(psutil.Error):
                    held = _private(child)
                    others.append(held)
                    if "".join(child.cmdline()[:1]).startswith("ray::"):
                        tasks.append(held)
            peaks.driver = max(peaks.driver, driver)
            peaks.task = max(peaks.task, *tasks)
            peaks.together = max(peaks.together, driver + sum(others))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()


def _private(process: psutil.Process) -> int:
    held = process.memory_info()
    return int(held.rss - held.shared)


def high_water(pid: int) -> int:
    """Return the most bytes that a process has held so far, shared ones too; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return max((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), default=0)
