"""Which trial comes next, and which is given up: Optuna and Ray Tune's schedulers, set up from settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)
from ray.tune.search import Searcher

from codex_ray.config.sweep import Searching
from codex_ray.tune.records import COMPLETED, ENDED, FAILED, GIVEN_UP, Records, TrialRecord
from codex_ray.tune.space import DRAWS, Space, Values

GRACE_SHARE = 8  # a trial may be given up after this part of its run
HYPERBAND_BRACKETS = 3


class ParzenSearch(Searcher):
    """Optuna's tree-structured Parzen estimator (Bergstra et al., 2011) over a sweep's space.

    Ray Tune's own OptunaSearch knows nothing of constraints, and is continued from a pickled file. Here a
    draw that breaks one is told to Optuna as failed, and what earlier starts found is told again.

    With a scheduler that gives trials up this is BOHB (Falkner et al., 2018, arXiv 1807.01774), Optuna's
    estimator in place of its own: those given up rank below all that went further.
    """

    def __init__(self, space: Space, search: Searching, records: Records) -> None:
        super().__init__(metric=search.metrics[0], mode=search.modes[0])
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._search = space, search
        # What runs at the same time counts as bad meanwhile, so that no two trials try the same.
        sampler = optuna.samplers.TPESampler(seed=search.seed + len(records), constant_liar=True)
        self._study = optuna.create_study(sampler=sampler, directions=directions(search.modes))
        self._study.add_trials(
            [optuna_trial(space, search, trial) for trial in records if trial.state in ENDED]
        )
        self._unfinished = [(one.number, one.values) for one in records if one.state not in ENDED]
        self._running: dict[str, Any] = {}  # Ray Tune's trial to Optuna's
        self._begun = len(records)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial's number and values.

        Raises:
            ConfigError: nothing that the constraints allow was found.
        """
        from optuna.trial import TrialState

        if self._unfinished:
            number, values = self._unfinished.pop(0)
            fixed = {
                axis.key: axis.encoded(values[axis.key]) for axis in self._space.axes if axis.key in values
            }
            self._study.enqueue_trial(fixed)
            return self._begin(trial_id, self._study.ask(), number)[0]
        if self._begun >= self._search.trials:
            return str(Searcher.FINISHED)
        for _ in range(DRAWS):
            trial = self._study.ask()
            told, values = self._begin(trial_id, trial, self._begun)
            if self._space.allows(values):
                self._begun += 1
                return told
            self._study.tell(trial, state=TrialState.FAIL)
        raise self._space.nothing_allowed()

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tell Optuna what a trial has come to so far."""
        metric = self._search.metrics[0]
        if len(self._search.metrics) == 1 and metric in result and trial_id in self._running:
            self._running[trial_id].report(float(result[metric]), step=int(result["tokens"]))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna what a trial came to."""
        from optuna.trial import TrialState

        trial = self._running.pop(trial_id, None)
        if trial is None:
            return
        told = result or {}
        if error or not all(name in told for name in self._search.metrics):
            self._study.tell(trial, state=TrialState.FAIL)
        elif told.get("state") == COMPLETED or len(self._search.metrics) > 1:
            self._study.tell(trial, [float(told[name]) for name in self._search.metrics])
        else:
            trial.report(float(told[self._search.metrics[0]]), step=int(told["tokens"]))
            self._study.tell(trial, state=TrialState.PRUNED)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the sweep's records are what it is continued from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing; see :meth:`save`."""

    def _begin(self, trial_id: str, trial: Any, number: int) -> tuple[dict[str, Any], Values]:
        values = self._space.choose(lambda axis: axis.suggest(trial))
        self._running[trial_id] = trial
        return {"trial": {"number": number, "values": values}}, values


def directions(modes: Sequence[str]) -> list[Any]:
    """Return modes as Optuna calls them."""
    return ["minimize" if mode == "min" else "maximize" for mode in modes]


def optuna_trial(space: Space, search: Searching, trial: TrialRecord, *, leading: bool = False) -> Any:
    """Return an ended trial as Optuna has it, with all metrics or the leading one."""
    from optuna.trial import TrialState, create_trial

    axes = [axis for axis in space.axes if axis.key in trial.values]
    good = bool(trial.results) and trial.state != FAILED
    given_up = good and trial.state == GIVEN_UP and not leading
    metrics = search.metrics[: 1 if leading else None]
    return create_trial(
        state=TrialState.PRUNED if given_up else TrialState.COMPLETE if good else TrialState.FAIL,
        params={axis.key: axis.encoded(trial.values[axis.key]) for axis in axes},
        distributions={axis.key: axis.distribution() for axis in axes},
        values=[trial.final(name) for name in metrics] if good and not given_up else None,
        intermediate_values={int(one["tokens"]): float(one[metrics[0]]) for one in trial.results}
        if given_up
        else None,
    )


def make_scheduler(search: Searching, run_tokens: int) -> TrialScheduler:
    """Return what gives trials up; ``run_tokens`` are those of the longest trial.

    Asynchronous successive halving: Li et al., arXiv 1810.05934; its several brackets stand for HyperBand
    (arXiv 1603.06560), whose synchronous form would let workers wait. Median rule: Golovin et al., 2017.
    """
    grace = search.grace_tokens or max(1, run_tokens // GRACE_SHARE)
    by = {"time_attr": "tokens", "metric": search.metrics[0], "mode": search.modes[0]}
    if search.scheduler in ("asha", "hyperband"):
        return AsyncHyperBandScheduler(
            max_t=run_tokens + 1,  # a run ends by itself, with its report
            grace_period=min(grace, run_tokens),
            reduction_factor=search.reduction,
            brackets=HYPERBAND_BRACKETS if search.scheduler == "hyperband" else 1,
            **by,
        )
    if search.scheduler == "median":
        # Without a time slice it would pause trials to let others catch up, each time for a start of its own.
        return MedianStoppingRule(grace_period=grace, min_samples_required=3, min_time_slice=math.inf, **by)
    return FIFOScheduler()


@dataclass(frozen=True)
class _Past:
    """What a scheduler asks of a trial."""

    trial_id: str


def remember(scheduler: TrialScheduler, records: Records) -> None:
    """Tell a fresh scheduler what ended trials of earlier starts measured."""
    for trial in records:
        if trial.state in ENDED and type(scheduler) is not FIFOScheduler:
            past: Any = _Past(trial.name)
            scheduler.on_trial_add(None, past)
            for result in trial.results:
                told = {**result, "training_iteration": result["step"]}
                if scheduler.on_trial_result(None, past, told) == TrialScheduler.STOP:
                    break
