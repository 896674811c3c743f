"""Spans: where a rank's time goes, one JSON line per phase and optimizer step.

A line holds ``phase``, ``step`` (counted from 1, as in metrics.jsonl; 0 before the first), ``start`` (unix
time) and ``seconds``; a phase that comes several times within a step, as forward does with several
micro-batches, is one line with its ``times``. A thread writes about once a second.

On a GPU the host only queues work, so the phases of a step are measured by events in its stream.
"""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLUSH_SECONDS = 1.0

_LOG = logging.getLogger(__name__)


class Spans:
    """One rank's spans; call it from the training thread, and :meth:`close` it at the end.

    Args:
        path: file to append to; None measures and writes nothing.
        cuda: measure the phases of a step on the GPU.
    """

    def __init__(self, path: Path | None, *, cuda: bool = False) -> None:
        self.last: dict[str, float] = {}  # seconds by phase of the last settled step
        self._path, self._cuda = path, cuda
        self._to_unix = time.time() - time.perf_counter()
        self._began = 0.0
        self._marks: list[tuple[str, Any]] = []
        self._lines: deque[str] = deque()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._flush_on, name="spans", daemon=True)
        if path is not None:
            self._thread.start()

    def enter(self, phase: str) -> None:
        """End the phase of the present step that is going on and begin this one."""
        if not self._marks:
            self._began = time.perf_counter()
        self._marks.append((phase, self._mark()))

    def settle(self, step: int) -> dict[str, float]:
        """End step ``step`` where the device has done all of it; returns its seconds by phase."""
        marks = [*self._marks, ("", self._mark())]
        self._marks = []
        starts: dict[str, float] = {}
        seconds: dict[str, float] = {}
        times: dict[str, int] = {}
        now = self._began
        for (phase, begin), (_, end) in itertools.pairwise(marks):
            spent = _between(begin, end)
            starts.setdefault(phase, now)
            seconds[phase] = seconds.get(phase, 0.0) + spent
            times[phase] = times.get(phase, 0) + 1
            now += spent
        for phase, start in starts.items():
            self.add(phase, step, self._to_unix + start, seconds[phase], times[phase])
        self.last = seconds
        return seconds

    @contextmanager
    def measure(self, phase: str, step: int) -> Iterator[None]:
        """Measure what is done beside the steps, such as a checkpoint after ``step``."""
        start = time.perf_counter()
        yield
        self.add(phase, step, self._to_unix + start, time.perf_counter() - start)

    def add(self, phase: str, step: int, start: float, seconds: float, times: int = 1) -> None:
        """Record a span that was measured already; ``start`` is unix time."""
        if self._path is None:
            return
        more = f', "times": {times}' if times > 1 else ""
        self._lines.append(
            f'{{"phase": {json.dumps(phase)}, "step": {step}, "start": {start:.6f}, '
            f'"seconds": {seconds:.6f}{more}}}\n'
        )

    def close(self) -> None:
        """Write what is left; what is measured later is not recorded."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(5 * FLUSH_SECONDS)

    def _mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _flush_on(self) -> None:
        assert self._path is not None
        try:
            with self._path.open("a", encoding="utf-8") as stream:
                while True:
                    last = self._stopped.wait(FLUSH_SECONDS)
                    stream.write("".join(self._lines.popleft() for _ in range(len(self._lines))))
                    stream.flush()
                    if last:
                        return
        except OSError as error:  # a full disk ends the run elsewhere
            self._path = None
            _LOG.warning("spans are no longer recorded (%s)", error)


def read_spans(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Read spans, oldest first within each file; lines that a killed worker left torn are passed over."""
    for path in paths:
        with path.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                try:
                    span = json.loads(line)
                except ValueError:
                    continue
                if isinstance(span, Mapping) and {"phase", "step", "start", "seconds"} <= span.keys():
                    yield dict(span)


def _between(begin: Any, end: Any) -> float:
    """Seconds between two marks."""
    if isinstance(begin, float):
        return float(end - begin)
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000
