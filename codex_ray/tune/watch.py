"""What the driver sees of a sweep: it records and shows it, and says when all trials end."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

from ray.tune import Callback, Stopper

from codex_ray.config.sweep import Searching
from codex_ray.track.progress import Progress, figure
from codex_ray.tune.names import NEVER_MEASURED
from codex_ray.tune.records import FAILED, GIVEN_UP, STOPPED, Records, TrialRecord, shown

_RAISED = re.compile(r"[\w.]*codex_ray\.errors\.\w+: ")  # before the sentence, in Python's traceback


class Watch(Callback):
    """Keeps the records and the display; a :class:`ray.tune.Callback`."""

    def __init__(self, records: Records, search: Searching, progress: Progress) -> None:
        self._records, self._search, self._progress = records, search, progress
        self.over = False  # whether what ends now ends with the sweep, not by itself

    def __reduce__(self) -> tuple[Any, ...]:
        return (Callback, ())  # Ray Tune writes its callbacks down; what these know has a file of its own

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins."""
        told = trial.config["trial"]
        self._records.begin(told["number"], told["values"])
        self._show()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial has measured."""
        self._records.result(_number(trial), result)
        self._show()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended, by itself or not."""
        # A run that ends by itself says how; of others Ray Tune says that they are done as well.
        state = trial.last_result.get("state") or (STOPPED if self.over else GIVEN_UP)
        self._note(self._records.end(_number(trial), state))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed; the others go on."""
        # What trial.get_error() reads is in the experiment's folder later only.
        lines = Path(trial.error_file).read_text(encoding="utf-8").strip().split("\n")
        told = [line for line in lines if _RAISED.match(line)] or lines
        reason = _RAISED.sub("", told[-1])
        if NEVER_MEASURED in reason and not any(one.results for one in self._records):
            self.over = True  # nor will the others
        self._note(self._records.end(_number(trial), FAILED, reason))

    def note(self, text: str) -> None:
        """Tell the user one sentence."""
        self._progress.note(text)

    def _note(self, trial: TrialRecord) -> None:
        values = "  ".join(f"{key}={shown(value)}" for key, value in trial.values.items())
        figures = [f"{name} {figure(trial.final(name))}" for name in self._search.metrics if trial.results]
        told = f" ({trial.reason})" if trial.reason else ""
        self._progress.note(
            f"{trial.name}  {trial.state}{told}  {'  '.join(figures)}  at {trial.tokens:,} tokens  {values}"
        )
        self._records.prune()
        self._show()

    def _show(self) -> None:
        best, metric = self._records.best(), self._search.metrics[0]
        states = [trial.state for trial in self._records]
        ended = sum(state != "running" for state in states)
        figures = {"best": best.final(metric), "of": best.name} if best is not None else {}
        self._progress.update(
            ended,
            running=states.count("running"),
            given_up=states.count(GIVEN_UP),
            **figures,  # type: ignore[arg-type]
        )


class Limit(Stopper):
    """Ends the sweep once all trials together had their tokens, or its time is over."""

    def __init__(self, records: Records, watch: Watch, search: Searching) -> None:
        self._records, self._watch = records, watch
        self._tokens = math.inf if search.tokens is None else search.tokens
        self._deadline = math.inf if search.hours is None else time.monotonic() + 3600 * search.hours

    def __reduce__(self) -> tuple[Any, ...]:
        return (NoLimit, ())  # as Watch

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is ended."""
        return False

    def stop_all(self) -> bool:
        """Whether all trials end now."""
        over = self._records.tokens >= self._tokens or time.monotonic() >= self._deadline
        self._watch.over = self._watch.over or over
        return self._watch.over


class NoLimit(Stopper):
    """Ends nothing."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is ended."""
        return False

    def stop_all(self) -> bool:
        """Nor all."""
        return False


def _number(trial: Any) -> int:
    return int(trial.config["trial"]["number"])
