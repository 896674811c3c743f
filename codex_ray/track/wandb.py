"""Runs in Weights & Biases: kept in the run folder (``offline``) or sent to its server (``online``)."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codex_ray.files import write_json
from codex_ray.track.mlflow import flat
from codex_ray.track.tracker import Status, Tracker, numbers

START_SECONDS = 30.0  # longest wait for the server


class WandbRun(Tracker):
    """One run's record, ``wandb/`` of its folder; does nothing where it is off.

    An offline record is sent later by ``wandb sync``. A resumed run goes on under the same id.

    Args:
        folder: the run folder.
        mode: ``off``, ``offline`` or ``online``.
        project: the project's name there.
    """

    thread_name = "codex-ray-wandb"

    def __init__(self, folder: Path, *, mode: str = "offline", project: str = "codex_ray") -> None:
        super().__init__(folder / "wandb.json", "Weights & Biases")
        self._folder, self._mode, self._project = folder, mode, project
        self._run: Any = None

    def start(
        self,
        name: str,
        *,
        parameters: Mapping[str, Any],
        life_id: str | None = None,
        commit: str | None = None,
    ) -> None:
        """Begin the record, or continue that of an earlier start."""
        if self._mode == "off" or self._thread is not None:
            return
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # nothing leaves the machine unasked
        try:
            import wandb
        except ImportError as error:
            self._warn(ImportError(f"{error}; pip install 'codex-ray[wandb]', or track.wandb=off"))
            return

        def begin() -> None:
            self._state = {"id": secrets.token_hex(4)} | self._known()
            write_json(self._state_path, self._state)
            self._run = wandb.init(
                id=self._state["id"],
                name=name,
                project=self._project,
                group=life_id,
                mode=self._mode,
                resume="allow" if self._mode == "online" else None,
                dir=str(self._folder),
                config={**flat(parameters), "git_commit": commit},
                settings=wandb.Settings(
                    silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True,
                    init_timeout=START_SECONDS,
                ),
            )  # fmt: skip
            self._run.define_metric("*", step_metric="step")
            self._state["lines"] = max(self._state.get("lines", 0), self._run.step)

        self._launch(begin)

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        # W&B's own step may only rise, and validations and nodes' loads come out of order: it counts lines.
        for row in rows:
            self._run.log({"step": row["step"], **dict(numbers(row))}, step=self._state["lines"])
            self._state["lines"] += 1
        write_json(self._state_path, self._state)

    def _finish(self, status: Status) -> None:
        self._run.finish(exit_code=0 if status == "FINISHED" else 1)
