"""A plug-in of coverage.py that writes what was measured every few seconds.

coverage.py writes when a process ends by itself, and Ray ends its workers by a signal that no process can
answer: without this, what a worker ran would be lost. What it runs first in its last seconds still may be.
"""

from __future__ import annotations

import os
import threading
import time

import coverage
from coverage.plugin_support import Plugins

EVERY_SECONDS = 2.0


def coverage_init(registry: Plugins, options: dict[str, str]) -> None:
    """Be called by coverage.py in each process that it measures."""
    start()
    os.register_at_fork(after_in_child=start)  # threads end with a fork


def start() -> None:
    """Begin saving in the background, until the process ends."""
    threading.Thread(target=_save_for_ever, daemon=True, name="coverage-saver").start()


def _save_for_ever() -> None:
    while True:
        time.sleep(EVERY_SECONDS)
        measuring = coverage.Coverage.current()
        if measuring is None:  # it has been stopped: the process ends
            return
        measuring.save()
