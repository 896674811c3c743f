"""Runs in TensorBoard: event files in the run folder, for ``tensorboard --logdir runs``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codex_ray.track.tracker import Status, Tracker, moment, numbers

FLUSH_SECONDS = 10


class TensorBoardRun(Tracker):
    """One run's event files, ``tensorboard/`` of its folder; does nothing where it is switched off.

    Args:
        folder: the run folder.
        enabled: whether to write them.
    """

    thread_name = "codex-ray-tensorboard"

    def __init__(self, folder: Path, *, enabled: bool = True) -> None:
        super().__init__(folder / "tensorboard" / "state.json", "TensorBoard")
        self._folder, self._enabled = folder / "tensorboard", enabled
        self._writer: Any = None

    def start(
        self,
        name: str,
        *,
        parameters: Mapping[str, Any],
        life_id: str | None = None,
        commit: str | None = None,
    ) -> None:
        """Open an event file; steps recorded by an earlier start are not written again."""
        if not self._enabled or self._thread is not None:
            return
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            self._warn(ImportError(f"{error}; pip install tensorboardX, or track.tensorboard=false"))
            return

        def begin() -> None:
            self._state = self._known()
            # A file is named by the second it was begun in, which two starts can share.
            after = f".{self._state.get('last_step', 0):012}"
            self._writer = SummaryWriter(
                logdir=str(self._folder), flush_secs=FLUSH_SECONDS, filename_suffix=after
            )

        self._launch(begin)

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            for name, value in numbers(row):
                self._writer.add_scalar(name, value, row["step"], walltime=moment(row))

    def _finish(self, status: Status) -> None:
        self._writer.close()
