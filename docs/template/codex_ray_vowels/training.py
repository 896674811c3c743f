"""What a run may be told: a schedule, an objective and a tracker."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from codex_ray.config.train import Schedule
from codex_ray.model.head import TokenHead
from codex_ray.track.tracker import Status, Tracker
from codex_ray.train.objectives.objective import Forward, Objective, Weights
from codex_ray.train.objectives.scoring import score
from codex_ray.train.objectives.sequences import Sequences


def halving(schedule: Schedule, total_steps: int, step: int) -> float:
    """The learning rate halves with each quarter of the run."""
    return 0.5 ** (4 * step // total_steps)


class Focal(Objective[Sequences]):
    """Likelihood, each token weighed by what the model lacks of it (Lin et al. 2017, arXiv 1708.02002)."""

    rows = "answers"

    def __init__(self, head: TokenHead, *, reference: Weights) -> None:
        super().__init__("nll")
        self.head = head

    def weight(self, micro: Sequences) -> int:
        return int(micro.mask_BS.sum())

    def loss(self, forward: Forward, micro: Sequences, total_weight: int) -> Tensor:
        logprob_T, _entropy_T = score(self.head, forward, micro)
        self.figures.add("nll", -logprob_T.sum(), logprob_T.numel())
        missing_T = 1 - logprob_T.detach().exp()
        return -(missing_T * logprob_T).sum() / total_weight


class Lines(Tracker):
    """Writes what other trackers are told into ``lines.jsonl`` of the run's folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "lines.json", "lines.jsonl")
        self.path = folder / "lines.jsonl"

    def start(
        self,
        name: str,
        *,
        parameters: Mapping[str, Any],
        life_id: str | None = None,
        commit: str | None = None,
    ) -> None:
        self._launch(lambda: self._line({"run": name}))

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            if "loss" in row:  # others tell of the nodes' load
                self._line({"step": row["step"], "loss": row["loss"]})

    def _finish(self, status: Status) -> None:
        self._line({"status": status})

    def _line(self, data: Mapping[str, Any]) -> None:
        with self.path.open("a") as stream:
            stream.write(json.dumps(data) + "\n")
