"""Workers that fail: what the driver counts and tells, and how long training stood still.

A run of a month on machines that come and go fails many times; one that cannot go on fails again and again at
the same place. So failures are counted from the newest checkpoint on: one that workers begin from anew, later
than the last, starts the count afresh.
"""

from __future__ import annotations

import time
from typing import Any

from codex_ray.errors import CodexRayError


class Failures:
    """Counts failures without progress, and measures what each one cost.

    Args:
        most: how many are survived without a new checkpoint.
        name: the run's name, for the sentence that ends it.
    """

    def __init__(self, most: int, name: str) -> None:
        self.survived: list[float] = []
        self.fatal: CodexRayError | None = None
        self._most, self._name = most, name
        self._without_progress = 0
        self._farthest = -1
        self._leaving = False
        self._stepped_at = time.monotonic()
        self._down_since: float | None = None
        self._waiting_since: float | None = None  # for workers to begin again

    @property
    def begun(self) -> bool:
        """Whether workers have begun at all."""
        return self._farthest >= 0

    def began(self, step: int) -> None:
        """Workers begin from the checkpoint of ``step``."""
        if step > self._farthest:
            self._farthest, self._without_progress = step, 0
        self._leaving, self._waiting_since = False, None

    def stepped(self) -> None:
        """New steps have been recorded."""
        now = time.monotonic()
        if self._down_since is not None:
            self.survived.append(now - self._down_since)
            self._down_since = None
        self._stepped_at = now

    def leaving(self) -> None:
        """Workers end of their own accord, to go on elsewhere: that is no failure."""
        self._leaving = True

    def failed(self, message: dict[str, Any], first_error: str | None) -> str | None:
        """Take in that workers died; returns what to tell the user.

        Args:
            message: ``ranks`` and ``reason``, whether processes are gone (``lost``) and whether a node was
                taken away as announced (``preempted``).
            first_error: the first error that a worker recorded.
        """
        if self._down_since is None:
            self._down_since = self._stepped_at
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
        leaving, self._leaving = self._leaving, False  # those that come after have no such excuse
        if leaving or message["preempted"]:
            return None
        self._without_progress += 1
        ranks = ", ".join(str(rank) for rank in message["ranks"])
        who = f"rank {ranks}" if len(message["ranks"]) == 1 else f"ranks {ranks}"
        if self._without_progress > self._most:
            # Where a process is gone, the first error is another's, that missed it.
            why = f"{who}: {message['reason']}" if message["lost"] else first_error or message["reason"]
            self.fatal = CodexRayError(
                f"training failed more than cluster.max_failures={self._most} times without a new checkpoint "
                f"({why}); see errors.ndjson and attempts in its folder, then "
                f"continue with resume=auto name={self._name}"
            )
            return None
        return (
            f"{who} failed ({message['reason']}); the workers begin anew from the newest checkpoint "
            f"(failure {self._without_progress} of at most {self._most} without a new one)"
        )

    def overdue(self, seconds: float) -> CodexRayError | None:
        """Return the error that ends a run whose workers have not begun again for ``seconds``."""
        if self._waiting_since is None or time.monotonic() - self._waiting_since <= seconds:
            return None
        return CodexRayError(
            "workers were lost and could not begin again within cluster.replacement_timeout_seconds="
            f"{seconds:g}, for the cluster has no room for them; add nodes, then continue with "
            f"resume=auto name={self._name}"
        )

    def figures(self) -> dict[str, float]:
        """Return ``recoveries`` and, where there were any, the mean ``recovery_seconds`` without a step."""
        if not self.survived:
            return {"recoveries": 0.0}
        mean = sum(self.survived) / len(self.survived)
        return {"recoveries": float(len(self.survived)), "recovery_seconds": mean}
