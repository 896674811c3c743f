"""Scaling studies: how the loss falls with compute over a ladder of sizes, and what comes next.

A ladder is a sweep over ``depth``, the dial that derives shape, batch, rate and length of each size at one
number of tokens per parameter. The best trial of each size gives a point; the curve is L = E + A C^-alpha
(Hoffmann et al., 2022, arXiv 2203.15556, approach 3, with compute for size and data), fitted to log losses
with Huber's loss as there. Intervals come from refitting to resampled residuals (bootstrap).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from codex_ray.config.sweep import Sweep
from codex_ray.config.train import Pretrain
from codex_ray.corpus.manifest import Manifest
from codex_ray.errors import ConfigError
from codex_ray.tune.records import Records, TrialRecord
from codex_ray.tune.space import Space, Values, trial_settings

SIZE = "depth"
FEWEST_SIZES = 4  # a curve of three numbers, and one more to see how well it holds
HUBER = 0.01  # of a log loss, from which residuals count linearly: one trial that went wrong, not noise
RESAMPLES = 200
INTERVAL = (5.0, 95.0)  # percent


@dataclass(frozen=True)
class Curve:
    """L(C) = floor + factor * (C / unit)^-power."""

    floor: float
    factor: float
    power: float
    unit: float

    def at(self, compute: float) -> float:
        """Return the loss at a compute, in FLOPs."""
        return float(self.floor + self.factor * (compute / self.unit) ** -self.power)


@dataclass(frozen=True)
class Study:
    """What a ladder came to.

    Attributes:
        points: each size's best trial: the size, its compute in FLOPs, and its loss.
        curve: the fit; ``curves``: refits to resampled residuals.
        values: of the next size up; ``compute``: what it would take.
    """

    points: list[tuple[int, float, float]]
    curve: Curve
    curves: list[Curve]
    values: Values
    compute: float

    def interval(self, compute: float) -> tuple[float, float]:
        """Return the bounds within which 90 % of the refits are at a compute."""
        low, high = np.percentile([curve.at(compute) for curve in self.curves], INTERVAL)
        return float(low), float(high)

    def power_interval(self) -> tuple[float, float]:
        """Return those of the power."""
        low, high = np.percentile([curve.power for curve in self.curves], INTERVAL)
        return float(low), float(high)


def refuse_no_ladder(sweep: Sweep, space: Space) -> None:
    """See that a sweep can be a scaling study.

    Raises:
        ConfigError: it is not of pretraining over enough sizes, or the metric is not one that falls.
    """
    sizes = next((axis.values for axis in space.axes if axis.key == SIZE and axis.kind == "choice"), ())
    if sweep.base != "pretrain" or len(sizes) < FEWEST_SIZES or sweep.sweep.modes[0] != "min":
        raise ConfigError(
            f"sweep.scaling=true needs base=pretrain, a metric that falls, and at least {FEWEST_SIZES} sizes "
            f"listed, such as {SIZE}=1,2,3,4"
        )
    if sweep.sweep.scheduler != "none":
        raise ConfigError(
            "sweep.scaling=true compares whole runs and sweep.scheduler="
            f"{sweep.sweep.scheduler} gives some up; give sweep.scheduler=none"
        )


def study(sweep: Sweep, space: Space, records: Records) -> Study | None:
    """Fit the ladder's completed trials; None while fewer than four sizes have one."""
    best: dict[int, TrialRecord] = {}
    for trial in records.ranked():
        if trial.state == "completed" and math.isfinite(trial.final(sweep.sweep.metrics[0])):
            best.setdefault(trial.values[SIZE], trial)
    if len(best) < FEWEST_SIZES:
        return None
    sizes = sorted(best)
    points = [
        (size, compute_of(sweep, best[size].values), best[size].final(sweep.sweep.metrics[0]))
        for size in sizes
    ]
    compute, losses = np.array([one[1] for one in points]), np.array([one[2] for one in points])
    curve = fit(compute, losses)
    values = next_values(space, [best[size] for size in sizes], compute, sweep)
    return Study(
        points,
        curve,
        refits(curve, compute, losses, sweep.sweep.seed),
        values,
        compute_of(sweep, values),
    )


def fit(compute: Any, losses: Any, near: Curve | None = None) -> Curve:
    """Fit L = E + A C^-alpha to losses in nats at computes in FLOPs, the best of several starts.

    Args:
        compute: of each size; ``losses``: what it came to.
        near: a curve to begin from alone.
    """
    from scipy.optimize import least_squares  # type: ignore[import-untyped]

    unit = float(np.exp(np.log(compute).mean()))
    places, heights = np.log(compute / unit), np.log(losses)
    lowest = float(heights.min())

    def residuals(parameters: Any) -> Any:
        floor, factor, power = parameters
        return np.logaddexp(floor, factor - power * places) - heights

    if near is None:
        begins = [
            (lowest + below, lowest + math.log(1 - math.exp(below)), power)
            for below, power in itertools.product((-3.0, -0.7, -0.2), (0.05, 0.2, 0.5))
        ]
    else:
        begins = [(min(math.log(near.floor), lowest), math.log(near.factor), near.power)]
    bounds = ([lowest - 10, lowest - 20, 1e-3], [lowest + 1e-9, heights.max() + 10, 3.0])
    fits = [
        least_squares(residuals, begin, bounds=bounds, loss="huber", f_scale=HUBER, x_scale=[1.0, 1.0, 0.1])
        for begin in (np.clip(begin, *bounds) for begin in begins)
    ]
    floor, factor, power = min(fits, key=lambda one: float(one.cost)).x
    return Curve(math.exp(floor), math.exp(factor), float(power), unit)


def refits(curve: Curve, compute: Any, losses: Any, seed: int) -> list[Curve]:
    """Fit again and again to what the curve says plus residuals drawn from its own.

    With three numbers fitted to few points residuals are too small, and how large they are is hardly known:
    they are widened by the degrees of freedom that are left, and as Student's distribution is.
    """
    from scipy.stats import norm, t  # type: ignore[import-untyped]

    expected = np.array([curve.at(one) for one in compute])
    residuals = np.log(losses) - np.log(expected)
    free, bound = len(losses) - 3, INTERVAL[1] / 100
    wider = math.sqrt(len(losses) / free) * t.ppf(bound, free) / norm.ppf(bound)
    random = np.random.default_rng(seed)
    draws = random.choice(residuals - residuals.mean(), (RESAMPLES, len(losses))) * wider
    return [fit(compute, expected * np.exp(draw), near=curve) for draw in draws]


def next_values(space: Space, best: Sequence[TrialRecord], compute: Any, sweep: Sweep) -> Values:
    """Return the values of the next size up: the ladder's step once more, and what else was searched.

    Of a number that was searched at every size, the power law through the best of each is followed; of
    anything else the largest size's value is taken.
    """
    sizes = [trial.values[SIZE] for trial in best]
    values = dict(best[-1].values) | {SIZE: 2 * sizes[-1] - sizes[-2]}
    for axis in space.axes:
        found: list[Any] = [trial.values.get(axis.key) for trial in best]
        if axis.key in (SIZE, "seed") or not all(type(one) in (int, float) and one > 0 for one in found):
            continue
        if len(set(found)) > 1:
            slope, height = np.polyfit(np.log(compute), np.log(found), 1)
            follow = math.exp(height + slope * math.log(compute_of(sweep, values)))
            values[axis.key] = float(f"{follow:.3g}") if type(found[0]) is float else round(follow)
    return values


def compute_of(sweep: Sweep, values: Values) -> float:
    """Return a trial's training compute in FLOPs: those of a token's both passes, for all its tokens."""
    from codex_ray.model import flops_per_token
    from codex_ray.model.build import model_config
    from codex_ray.tokenizer import Tokenizer

    settings: Pretrain = trial_settings(sweep, values)
    manifest = Manifest.load(settings.corpus)
    tokenizer = Tokenizer.load(manifest.folder / "tokenizer")
    config = model_config(
        settings.model,
        vocabulary_size=tokenizer.vocabulary_size,
        sequence_length=manifest.sequence_length,
        special_ids=tokenizer.special_ids,
    )
    assert settings.train.steps is not None  # the dial gives it
    tokens = settings.train.steps * settings.train.batch_tokens
    return tokens * flops_per_token(config, manifest.sequence_length)
