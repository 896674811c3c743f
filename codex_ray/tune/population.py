"""Population based training (Jaderberg et al., 2017, arXiv 1711.09846) over whole runs.

The trials are a population that trains in segments of equally many optimizer steps. After each, the worst
quarter goes on from checkpoints of the best (truncation selection: exploit) with settings a little apart from
theirs (explore). Who takes from whom follows from the records and the sweep's seed alone, so that a sweep
that was cut off in between does the same again. Ray Tune's scheduler of this name moves Tune's own
checkpoints, of which runs of Ray Train have none, and draws from Python's global generator.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from codex_ray.config.sweep import Sweep
from codex_ray.config.train import TrainingRun
from codex_ray.errors import ConfigError
from codex_ray.tune.records import COMPLETED, FAILED, Records, TrialRecord, shown
from codex_ray.tune.space import DRAWS, Axis, Space, Values, trial_settings

SHARE = 0.25  # of the population that takes over, and that is taken from (Ray Tune's; the paper has 0.2)
RESAMPLED = 0.25  # chance of an axis to be drawn anew instead of moved
FACTORS = (0.8, 1.2)  # by which a number is moved, as in the paper
SEGMENTS = 8  # of a run, where sweep.segment_steps is unset

# What acts anew in every step, so that a state that was made under other values can be taken on.
MOVABLE = ("optimizer.", "schedule.")
FIXED = ("optimizer.kind",)


@dataclass(frozen=True)
class Exchange:
    """A trial takes over another's state, with these values from then on."""

    taker: int
    giver: int
    values: Values


def segment_ends(sweep: Sweep, space: Space) -> list[int]:
    """Return the optimizer steps after which the population compares, and at last the whole run's.

    Raises:
        ConfigError: the trials' lengths in steps are not known or not equal, nothing is measured there, or
            the state of a trial is more than its checkpoint.
    """
    for key in ("train.steps", "train.epochs", "train.seconds"):
        if any(axis.key == key for axis in space.axes):
            raise ConfigError(f"sweep.scheduler=pbt needs trials of one length; leave {key} out of the space")
    base: TrainingRun = trial_settings(sweep, space.choose(lambda axis: axis.values[0]))
    steps, search = base.train.steps, sweep.sweep
    if steps is None or sweep.base == "discover":
        raise ConfigError(
            "sweep.scheduler=pbt trains in segments of steps; give train.steps, and base=pretrain or finetune"
        )
    if base.checkpoints.storage is not None:
        raise ConfigError(
            "sweep.scheduler=pbt hands checkpoints over in run folders; leave checkpoints.storage out"
        )
    if not any(movable(axis) for axis in space.axes):
        raise ConfigError(
            "sweep.scheduler=pbt moves settings of the optimizer and the schedule while trials train, and "
            "sweep.space has none; add one such as optimizer.learning_rate"
        )
    segment = search.segment_steps or max(1, steps // SEGMENTS)
    every = base.validation.every
    if "validation_loss" in search.metrics and (not every or segment % every):
        raise ConfigError(
            f"the population compares every {segment} steps (sweep.segment_steps) and "
            f"validation.every={every} does not measure then; give a divisor of {segment}"
        )
    return [*range(segment, steps, segment), steps]


def movable(axis: Axis) -> bool:
    """Whether a trial may take another value on this axis while it goes on."""
    return axis.key.startswith(MOVABLE) and axis.key not in FIXED


def exchanges(space: Space, sweep: Sweep, records: Records, step: int) -> list[Exchange]:
    """Say who takes over from whom after ``step``; trials that failed take over first.

    Raises:
        ConfigError: nothing near the giver's values is allowed by the constraints.
    """
    members = [trial for trial in records if trial.state != COMPLETED]
    failed = [trial for trial in members if trial.state == FAILED or _failed_before(trial, step)]
    ranked = [trial for trial in records.ranked() if trial in members and trial not in failed]
    count = min(math.ceil(len(members) * SHARE), len(members) // 2, len(ranked))
    worst = ranked[len(ranked) - max(0, count - len(failed)) :]
    givers = ranked[:count]
    found = []
    for taker in [*failed, *worst]:
        others = [giver for giver in givers if giver is not taker]
        if not others or any(taken["step"] == step for taken in taker.taken):
            continue  # done already, by a start of the sweep that was cut off
        random = np.random.default_rng([sweep.sweep.seed, step, taker.number])
        giver = others[int(random.integers(len(others)))]
        found.append(Exchange(taker.number, giver.number, explored(space, giver.values, random)))
    return found


def _failed_before(trial: TrialRecord, step: int) -> bool:
    return any(one["step"] == step and one["reason"] for one in trial.taken)


def explored(space: Space, values: Values, random: np.random.Generator) -> Values:
    """Return values near the given ones: what may move is moved or drawn anew, all else stays.

    Raises:
        ConfigError: nothing that the constraints allow was found.
    """

    def one(axis: Axis) -> Any:
        if axis.key not in values:
            return axis.draw(random)
        return _moved(axis, values[axis.key], random) if movable(axis) else values[axis.key]

    for _ in range(DRAWS):
        near = space.choose(one)
        if space.allows(near):
            return near
    raise space.nothing_allowed()


def _moved(axis: Axis, value: Any, random: np.random.Generator) -> Any:
    if random.random() < RESAMPLED:
        return axis.draw(random)
    up = bool(random.integers(2))
    if axis.kind == "choice":
        place = axis.values.index(value) + (1 if up else -1)
        return axis.values[min(max(place, 0), len(axis.values) - 1)]
    low, high = axis.values
    moved = min(max(value * FACTORS[up], low), high)
    return low + axis.step * round((moved - low) / axis.step) if axis.kind == "integer" else moved


def ancestry(records: Records, trial: TrialRecord, until: float = math.inf) -> Iterator[dict[str, Any]]:
    """Yield the segments by which a trial's weights came about, oldest first: from, to, trial, values."""
    taken = [one for one in trial.taken if one["step"] < until]
    values = next((one["before"] for one in trial.taken if one["step"] >= until), trial.values)
    if taken:
        giver = next(other for other in records if other.number == taken[-1]["giver"])
        yield from ancestry(records, giver, taken[-1]["step"])
    last = trial.results[-1]["step"] if trial.results else 0
    begin = taken[-1]["step"] if taken else 0
    yield {"from": begin, "to": min(until, last), "trial": trial.name, "values": values}


def line(records: Records, one: Exchange, step: int) -> str:
    """Say an exchange in a sentence."""
    names = {trial.number: trial.name for trial in records}
    values = "  ".join(f"{key}={shown(value)}" for key, value in one.values.items())
    return f"step {step}: {names[one.taker]} goes on from {names[one.giver]} with {values}"


def apply(sweep: Sweep, records: Records, one: Exchange, step: int, own: dict[str, Any]) -> None:
    """Hand the checkpoint over and write the exchange down.

    Raises:
        CodexRayError: the checkpoint is damaged, or the disk refuses.
    """
    from codex_ray.train.handover import hand_over

    taker, giver = (records.folder_of(number) for number in (one.taker, one.giver))
    settings = trial_settings(
        sweep, one.values, name=taker.name, runs=str(taker.parent), resume="auto", **own
    )
    hand_over(giver, taker, step, settings)
    records.take_over(one.taker, one.giver, one.values, step)
