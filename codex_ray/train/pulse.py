"""Finding ranks that hang: each rank's pulse, and the watch that the driver keeps on all of them.

A thread of every worker writes once a second where its rank stands. A process that is stopped or gone stops
writing; one whose training thread is stuck writes on, at the same place, as do the ranks that wait for it.
The driver goes by its own clock: it looks at when a pulse last changed. It names the culprit, has every rank
that still answers write the stacks of its threads, and ends those, whereupon Ray Train starts all anew.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codex_ray.files import replacing, write_json

BEAT_SECONDS = 1.0
STACK_SECONDS = 4.0  # given to ranks to write their stacks
ORDERS = "hang.json"
EXIT_STATUS = 70
# Phases of a step: where all ranks stand still in one of these, nothing moves. Others may take long.
STEP_PHASES = ("data", "mixing gains", "targets", "forward", "backward", "optimizer step", "reduction")


class Pulse:
    """One rank's pulse, beating from construction until :meth:`stop`.

    Args:
        folder: the attempt's folder, which the driver reads.
        rank: this rank.
        node: this node's address.
        place: returns the present step, the phase, and a count of what is done within it.
    """

    def __init__(self, folder: Path, rank: int, node: str, place: Callable[[], tuple[int, str, int]]) -> None:
        self._folder, self._rank, self._place = folder, rank, place
        self._key = f"{node}:{os.getpid()}"
        self._beats = 0
        self._dumped = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="pulse", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Beat no more and take the pulse away: this rank ends of its own accord."""
        self._stopped.set()
        self._thread.join(2 * BEAT_SECONDS)
        (self._folder / f"pulse_{self._rank}.json").unlink(missing_ok=True)

    def _beat_on(self) -> None:
        while True:  # at once, for a rank that stops within its first second
            with contextlib.suppress(OSError, ValueError):  # a full disk is found elsewhere, and told there
                self._obey()
                self._beat()
            if self._stopped.wait(BEAT_SECONDS):
                return

    def _beat(self) -> None:
        self._beats += 1
        step, phase, moves = self._place()
        pulse = {"key": self._key, "beats": self._beats, "step": step, "phase": phase, "moves": moves}
        with replacing(self._folder / f"pulse_{self._rank}.json") as path:
            path.write_text(json.dumps(pulse), encoding="utf-8")

    def _obey(self) -> None:
        path = self._folder / ORDERS
        if not path.exists():
            return
        orders = json.loads(path.read_text(encoding="utf-8"))
        if self._key in orders["stacks"] and not self._dumped:
            self._dumped = True
            with (self._folder / f"stacks_{self._rank}.txt").open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
        if self._key in orders["end"]:
            os._exit(EXIT_STATUS)  # the training thread does not answer


def clear_pulses(folder: Path) -> None:
    """Remove what workers that were killed have left, before new ones have a pulse."""
    for path in folder.glob("pulse_*.json"):
        path.unlink(missing_ok=True)


@dataclass
class _Seen:
    pulse: dict[str, Any]
    beat_at: float
    moved_at: float


@dataclass(frozen=True)
class Hang:
    """A hang: the culprit's rank, step and phase, and what to tell the user."""

    rank: int
    step: int
    phase: str
    sentence: str


class HangWatch:
    """Looks at the pulses of all ranks; :meth:`look` is called again and again.

    Args:
        folder: the attempt's folder.
        seconds: how long nothing may move.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder, self._seconds = folder, seconds
        self._seen: dict[int, _Seen] = {}
        self._looked = 0.0
        self._end_at: float | None = None

    def look(self, now: float | None = None) -> Hang | None:
        """Return a hang when one is found; what it takes to end it goes on at later looks."""
        now = time.monotonic() if now is None else now
        if now - self._looked < BEAT_SECONDS:
            return None
        self._looked = now
        self._read(now)
        if self._end_at is not None:
            if now >= self._end_at:
                self._order(end=True)
                for rank in self._seen:  # those that come next begin anew
                    (self._folder / f"pulse_{rank}.json").unlink(missing_ok=True)
                self._seen, self._end_at = {}, None
            return None
        hang = self._find(now)
        if hang is not None:
            self._order(end=False)
            self._end_at = now + STACK_SECONDS
        return hang

    def _read(self, now: float) -> None:
        found = {}
        for path in self._folder.glob("pulse_*.json"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                rank = int(path.stem.split("_")[1])
                pulse = json.loads(path.read_text(encoding="utf-8"))
                before = self._seen.get(rank)
                if before is None or before.pulse["key"] != pulse["key"]:
                    found[rank] = _Seen(pulse, now, now)
                    continue
                moved = any(pulse[key] != before.pulse[key] for key in ("step", "phase", "moves"))
                beat = pulse["beats"] != before.pulse["beats"]
                found[rank] = _Seen(pulse, now if beat else before.beat_at, now if moved else before.moved_at)
        self._seen = found

    def _find(self, now: float) -> Hang | None:
        silent = [rank for rank, seen in self._seen.items() if now - seen.beat_at > self._seconds]
        if len(silent) == len(self._seen):
            return None  # the workers are gone or have not begun, which Ray knows
        if silent:
            return self._hang(min(silent), "has not answered", silent)
        still = [rank for rank, seen in self._seen.items() if now - seen.moved_at > self._seconds]
        if not still or len(still) < len(self._seen):
            return None
        if any(self._seen[rank].pulse["phase"] not in STEP_PHASES for rank in still):
            return None

        def progress(rank: int) -> tuple[int, int, int]:
            pulse = self._seen[rank].pulse
            return pulse["step"], pulse["moves"], STEP_PHASES.index(pulse["phase"])

        behind = min(still, key=lambda rank: (progress(rank), rank))
        return self._hang(behind, "has not moved", [])

    def _hang(self, rank: int, what: str, silent: list[int]) -> Hang:
        pulse = self._seen[rank].pulse
        others = len(silent) - 1
        more = f" (nor have {others} more)" if others > 0 else ""
        return Hang(
            rank,
            pulse["step"],
            pulse["phase"],
            f"rank {rank} ({pulse['key']}) {what} for {self._seconds:g} s at step {pulse['step']}, in "
            f"{pulse['phase']}{more}; the stacks of all ranks that answer are in {self._folder}, and the "
            "workers are started again",
        )

    def _order(self, *, end: bool) -> None:
        keys = [self._seen[rank].pulse["key"] for rank in sorted(self._seen)]
        write_json(self._folder / ORDERS, {"stacks": keys, "end": keys if end else []})
