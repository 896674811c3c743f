"""What Ray Train's controller tells the driver: that workers failed, also those that could say nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError
from ray.train import UserCallback

from codex_ray.files import unwritable
from codex_ray.train.messages import Messages


class FailureReport(UserCallback):
    """Writes each failure of the worker group into the messages of the attempt whose folder is returned."""

    def __init__(self, attempt_folder: Callable[[], Path]) -> None:
        self._attempt_folder = attempt_folder

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Write down which ranks failed and why the first of them did.

        Raises:
            CodexRayError: the run folder cannot be written: Ray Train ends with this instead of trying again.
        """
        ranks = sorted(worker_exceptions)
        lost = {
            rank: cause
            for rank in ranks
            if isinstance(cause := _cause(worker_exceptions[rank]), RayActorError)
        }
        folder = self._attempt_folder()
        try:
            Messages(folder).send(
                "failure",
                ranks=list(lost) or ranks,  # where one is lost, the others only found that it was gone
                reason="its process or node is gone" if lost else _last_line(worker_exceptions[ranks[0]]),
                lost=bool(lost),
                preempted=any(cause.preempted for cause in lost.values()),
            )
        except OSError as error:
            raise unwritable(folder, error) from error


def _cause(error: Exception) -> Any:
    """What a failed health check found."""
    return getattr(error, "health_check_failure", error)


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip()[:300] if lines else type(error).__name__
