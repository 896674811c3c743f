"""What became of each trial: one JSON file in the sweep's folder, written whenever something changes."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from codex_ray.config.sweep import Searching
from codex_ray.errors import CodexRayError
from codex_ray.files import read_json, write_json
from codex_ray.track.progress import figure
from codex_ray.tune.names import TRIALS, trial_name

RUNNING, COMPLETED, GIVEN_UP, STOPPED, FAILED = "running", "completed", "given up", "stopped", "failed"
ENDED = (COMPLETED, GIVEN_UP, FAILED)


@dataclass
class TrialRecord:
    """One trial.

    Attributes:
        number: from 0, in the order of their beginnings.
        values: what the trial's settings are, where the sweep tries several.
        state: running, completed, given up (by the scheduler), stopped (with the sweep) or failed.
        results: step, tokens and metrics, each time that they were measured.
        reason: why it failed.
        taken: each time that it took over another trial's state: the step, the giver's number, its own values
            before, and why it had failed, if it had.
    """

    number: int
    values: dict[str, Any]
    state: str = RUNNING
    results: list[dict[str, Any]] = field(default_factory=list)
    reason: str | None = None
    began: float = field(default_factory=time.time)
    ended: float | None = None
    taken: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of its run folder."""
        return trial_name(self.number)

    @property
    def step(self) -> int:
        """Optimizer step of its last result, or of the state that it took over since."""
        return max([0, *(int(one["step"]) for one in [*self.results[-1:], *self.taken[-1:]])])

    @property
    def tokens(self) -> int:
        """Tokens that it was trained on."""
        return int(self.results[-1]["tokens"]) if self.results else 0

    def final(self, metric: str) -> float:
        """What a metric last came to; not a number where it was never measured."""
        return float(self.results[-1][metric]) if self.results else math.nan


def shown(value: Any) -> str:
    """Return a value of a setting as people read it."""
    return figure(value) if isinstance(value, float) else str(value)


class Records:
    """The trials of a sweep, by number; what an earlier start wrote is there too.

    Raises:
        CodexRayError: the file of an earlier start is damaged.
    """

    def __init__(self, folder: Path, search: Searching) -> None:
        self._path, self._folder, self._search = folder / "trials.json", folder / TRIALS, search
        self._trials: dict[int, TrialRecord] = {}
        if self._path.exists():
            remedy = "restore it from a copy, or give another name=NAME"
            rows = read_json(self._path, "record of trials", remedy)
            try:
                self._trials = {row["number"]: TrialRecord(**row) for row in rows}
                unknown = {trial.state for trial in self._trials.values()} - {RUNNING, STOPPED, *ENDED}
                if unknown:
                    raise ValueError(f"no state is called {unknown.pop()!r}")
            except (ValueError, TypeError, KeyError) as error:
                raise CodexRayError(f"{self._path} is no record of trials ({error}); {remedy}") from error

    def __iter__(self) -> Iterator[TrialRecord]:
        return iter(sorted(self._trials.values(), key=lambda trial: trial.number))

    def __len__(self) -> int:
        return len(self._trials)

    @property
    def tokens(self) -> int:
        """Tokens of all trials."""
        return sum(trial.tokens for trial in self._trials.values())

    def begin(self, number: int, values: dict[str, Any]) -> None:
        """A trial begins, or goes on."""
        trial = self._trials.setdefault(number, TrialRecord(number, values))
        trial.state, trial.reason, trial.ended = RUNNING, None, None
        self.write()

    def result(self, number: int, result: dict[str, Any]) -> None:
        """A trial has measured; what it measures again after it went on is there already."""
        trial = self._trials[number]
        if not trial.results or result["step"] > trial.results[-1]["step"]:
            trial.results.append({name: result[name] for name in ("step", "tokens", *self._search.metrics)})
            self.write()

    def end(self, number: int, state: str, reason: str | None = None) -> TrialRecord:
        """A trial has ended."""
        trial = self._trials[number]
        trial.state, trial.reason, trial.ended = state, reason, time.time()
        self.write()
        return trial

    def take_over(self, number: int, giver: int, values: dict[str, Any], step: int) -> None:
        """A trial goes on from another's state of a step, with values of its own."""
        trial = self._trials[number]
        trial.taken.append({"step": step, "giver": giver, "before": trial.values, "reason": trial.reason})
        trial.values, trial.state, trial.reason, trial.ended = values, STOPPED, None, None
        self.write()

    def folder_of(self, number: int) -> Path:
        """Return a trial's run folder."""
        return self._folder / trial_name(number)

    def write(self) -> None:
        """Write the file."""
        write_json(self._path, [asdict(trial) for trial in self])

    def best(self) -> TrialRecord | None:
        """Return the trial whose leading metric ended best; one that was given up only where all were."""
        ranked = self.ranked()
        return ranked[0] if ranked else None

    def ranked(self) -> list[TrialRecord]:
        """Return trials that measured something, best first; those given up come after all others."""
        sign = 1 if self._search.modes[0] == "min" else -1
        measured = [trial for trial in self if trial.results and trial.state != FAILED]
        metric = self._search.metrics[0]

        def place(trial: TrialRecord) -> tuple[bool, bool, float]:
            final = trial.final(metric)
            return (trial.state == GIVEN_UP, math.isnan(final), sign * final)

        return sorted(measured, key=place)

    def front(self) -> list[TrialRecord]:
        """Return the trials that no other is at least as good as in every metric and better in one."""
        signs = [1 if mode == "min" else -1 for mode in self._search.modes]
        points = {
            trial.number: [
                sign * trial.final(name) for sign, name in zip(signs, self._search.metrics, strict=True)
            ]
            for trial in self.ranked()
        }

        def beaten(number: int) -> bool:
            mine = points[number]
            return any(
                other != mine and all(one <= own for one, own in zip(other, mine, strict=True))
                for other in points.values()
            )

        return [trial for trial in self.ranked() if not beaten(trial.number)]

    def prune(self) -> None:
        """Remove model and checkpoints of ended trials that are not among the best; figures stay."""
        best = self.front() if len(self._search.metrics) > 1 else self.ranked()
        # One that still runs may yet end worse: it takes no place from one that has ended.
        kept = {trial.number for trial in [one for one in best if one.state in ENDED][: self._search.keep]}
        for trial in self:
            if trial.state in ENDED and trial.number not in kept:
                for part in ("checkpoints", "model"):
                    shutil.rmtree(self._folder / trial.name / part, ignore_errors=True)
