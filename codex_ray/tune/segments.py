"""A population's segments as Ray Tune's trials, so that the workers of one segment train the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from ray.tune.search import Searcher

from codex_ray.config.sweep import Sweep
from codex_ray.errors import CodexRayError
from codex_ray.tune import population
from codex_ray.tune.records import ENDED, Records
from codex_ray.tune.space import Space, Values
from codex_ray.tune.watch import Watch


class Segments(Searcher):
    """Gives out segment after segment; in between, the worst take over from the best.

    Args:
        planned: each member's values at the beginning.
        own: settings of all runs, by dotted key.
        watch: shows what happens, and knows whether the sweep's limit is reached.
        signals: which have asked the sweep to end.
    """

    def __init__(
        self,
        sweep: Sweep,
        space: Space,
        records: Records,
        planned: Sequence[Values],
        own: dict[str, Any],
        watch: Watch,
        signals: Sequence[int],
    ) -> None:
        super().__init__(metric=sweep.sweep.metrics[0], mode=sweep.sweep.modes[0])
        self._sweep, self._space, self._records, self._own = sweep, space, records, own
        self._planned, self._watch, self._signals = planned, watch, signals
        self._ends = population.segment_ends(sweep, space)
        self._step = 0  # at which the present segment ends
        self._waiting: deque[dict[str, Any]] = deque()
        self._running: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return a member's next segment; None while others of the present segment are on their way.

        Raises:
            ConfigError: nothing near a giver's values is allowed by the constraints.
        """
        while not self._waiting:
            if self._running:
                return None
            if self._signals or self._watch.over or self._step == self._ends[-1]:
                return str(Searcher.FINISHED)
            if self._step and not self._further():
                self._exchange()
            self._step = next(end for end in self._ends if end > self._step)
            if not self._further():
                self._line_up()
        self._running.add(trial_id)
        return {"trial": self._waiting.popleft()}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Take note that a member's segment is over."""
        self._running.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the sweep's records are what it is continued from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing; see :meth:`save`."""

    def _further(self) -> bool:
        """Whether an earlier start of the sweep went beyond the present segment."""
        return any(trial.step > self._step for trial in self._records)

    def _line_up(self) -> None:
        """Have those trained who have not come to the end of the segment."""
        known = {trial.number: trial for trial in self._records}
        for number, values in enumerate(self._planned):
            trial = known.get(number)
            if trial is None or (trial.state not in ENDED and trial.step < self._step):
                told = {"number": number, "values": trial.values if trial else values}
                self._waiting.append({**told, "own": {"train.stop_after": self._step}})

    def _exchange(self) -> None:
        """Let the worst take over from the best."""
        for one in population.exchanges(self._space, self._sweep, self._records, self._step):
            try:
                population.apply(self._sweep, self._records, one, self._step, self._own)
                self._watch.note(population.line(self._records, one, self._step))
            except CodexRayError as error:  # it goes on from its own, or stays failed
                self._watch.note(str(error))
