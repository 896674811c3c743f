"""The space of a sweep: what each setting may be, what must hold between them, and drawing from it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from codex_ray.config.compose import compose
from codex_ray.config.fields import to_dict
from codex_ray.config.sweep import KINDS, Sweep
from codex_ray.config.tree import dotted, nested
from codex_ray.errors import ConfigError, nearest
from codex_ray.tune.constraint import Constraint

DRAWS = 1000  # tries to draw what all constraints allow

Values = dict[str, Any]


@dataclass(frozen=True)
class Axis:
    """What one setting may be.

    Attributes:
        key: the base verb's setting or group.
        kind: one of ``KINDS``.
        values: what there is to choose from, or low and high.
        step: distance between two integers.
        when: other settings' values under which this one is tried at all.
    """

    key: str
    kind: str
    values: tuple[Any, ...]
    step: int = 1
    when: tuple[tuple[str, Any], ...] = ()

    def draw(self, random: np.random.Generator) -> Any:
        """Draw one value."""
        if self.kind == "choice":
            return self.values[int(random.integers(len(self.values)))]
        low, high = self.values
        if self.kind == "integer":
            return low + self.step * int(random.integers((high - low) // self.step + 1))
        if self.kind == "log_uniform":
            return float(math.exp(random.uniform(math.log(low), math.log(high))))
        return float(random.uniform(low, high))

    def distribution(self) -> Any:
        """Return the axis as Optuna has it; a choice is the place in the list."""
        from optuna import distributions

        low, high = self.values[0], self.values[-1]
        if self.kind == "choice":
            return distributions.CategoricalDistribution(list(range(len(self.values))))
        if self.kind == "integer":
            return distributions.IntDistribution(low, high, step=self.step)
        return distributions.FloatDistribution(low, high, log=self.kind == "log_uniform")

    def encoded(self, value: Any) -> Any:
        """Return a value as Optuna has it."""
        return self.values.index(value) if self.kind == "choice" else value

    def suggest(self, trial: Any) -> Any:
        """Let an Optuna trial choose one value."""
        chosen = trial._suggest(self.key, self.distribution())
        return self.values[chosen] if self.kind == "choice" else chosen


class Space:
    """All axes of a sweep, with its constraints, over the settings of its base verb.

    Raises:
        ConfigError: there is nothing to try, a key does not exist, a value is of the wrong type, or bounds
            are the wrong way round.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        if not sweep.sweep.space:
            raise ConfigError(
                "the sweep has nothing to try; give key=a,b,c, sweep=NAME (of configs/sweep) or sweep.space"
            )
        axes = [_axis(key, told) for key, told in sweep.sweep.space.items()]
        self.axes = _in_order(axes)
        self.constraints = [Constraint(text) for text in sweep.sweep.constraints]
        always = {axis.key: axis.values[0] for axis in self.axes if not axis.when}
        self._base = flat_settings(trial_settings(sweep, always))
        self._check()

    def given(self, values: Mapping[str, Any]) -> Values:
        """Return a trial's values with, for what they leave out, those of the base verb."""
        return self._base | dict(values)

    def allows(self, values: Mapping[str, Any]) -> bool:
        """Whether all constraints hold for a trial's values."""
        if not self.constraints:
            return True
        given = self.given(values)
        if values.keys() - self._base.keys():  # a group: what it sets is known once it is composed
            given |= flat_settings(trial_settings(self._sweep, values))
        return all(constraint.holds(given) for constraint in self.constraints)

    def choose(self, one: Callable[[Axis], Any]) -> Values:
        """Choose a value on each axis that is tried, in an order in which conditions are known."""
        values: Values = {}
        for axis in self.axes:
            given = self.given(values)
            if all(given.get(key) == wanted for key, wanted in axis.when):
                values[axis.key] = one(axis)
        return values

    def draw(self, number: int) -> Values:
        """Draw trial ``number``: a function of the sweep's seed and this number alone.

        Raises:
            ConfigError: nothing that the constraints allow was found.
        """
        random = np.random.default_rng([self._sweep.sweep.seed, number])
        for _ in range(DRAWS):
            values = self.choose(lambda axis: axis.draw(random))
            if self.allows(values):
                return values
        raise self.nothing_allowed()

    def grid(self) -> Iterator[Values]:
        """Yield every combination of listed values that conditions and constraints allow, each once."""
        if continuous := [axis.key for axis in self.axes if axis.kind in ("uniform", "log_uniform")]:
            raise ConfigError(
                f"sweep.search=grid cannot try every value of {', '.join(continuous)}; list values, or give "
                "sweep.search=random"
            )
        seen = set()
        for combination in itertools.product(*(_listed(axis) for axis in self.axes)):
            by_key = dict(zip((axis.key for axis in self.axes), combination, strict=True))
            values = self.choose(lambda axis, by_key=by_key: by_key[axis.key])  # type: ignore[misc]
            if repr(values) not in seen and self.allows(values):
                seen.add(repr(values))
                yield values

    def trials(self) -> list[Values] | None:
        """Return the values of all trials; None where each is chosen by what others came to.

        Raises:
            ConfigError: the constraints leave nothing, or a grid has an axis without end.
        """
        search = self._sweep.sweep
        if search.search == "tpe":
            return None
        if search.search == "random":
            return [self.draw(number) for number in range(search.trials)]
        trials = list(self.grid())
        if not trials:
            raise ConfigError("sweep.constraints leave nothing of the grid; widen sweep.space")
        return trials

    def nothing_allowed(self) -> ConfigError:
        """Return the error of a space in which nothing was found that its constraints allow."""
        listed = "; ".join(self._sweep.sweep.constraints)
        return ConfigError(f"of {DRAWS} draws none kept sweep.constraints ({listed}); widen sweep.space")

    def _check(self) -> None:
        """Compose the base verb's settings with each end of each axis: types and rules, before any trial."""
        known = set(self._base) | {axis.key for axis in self.axes}
        for axis in self.axes:
            for key, _ in axis.when:
                if key not in known:
                    raise ConfigError(f"sweep.space {axis.key}: when names {key!r}{nearest(key, known)}")
            for value in axis.values:
                try:
                    trial_settings(self._sweep, dict(axis.when) | {axis.key: value})
                except ConfigError as error:
                    raise ConfigError(f"sweep.space {axis.key}={value}: {error}") from error
        for constraint in self.constraints:
            constraint.check(self._base)


def trial_settings(sweep: Sweep, values: Mapping[str, Any], **own: Any) -> Any:
    """Return the base verb's checked settings with a trial's values.

    Args:
        values: by dotted key; text is taken as on a command line, and may choose a group.
        own: what is the trial's own, such as its name.

    Raises:
        ConfigError: the settings cannot be right.
    """
    everything = {**sweep.run, **values}
    words = [f"{key}={value}" for key, value in everything.items() if isinstance(value, str)]
    plain = {key: value for key, value in everything.items() if not isinstance(value, str)}
    return compose(sweep.base, [*sweep.paths, *words], sweep.base_config, nested({**plain, **own}))


def flat_settings(settings: Any) -> Values:
    """Return settings by dotted key."""
    return dotted(to_dict(settings))


def _axis(key: str, told: Any) -> Axis:
    """Read one entry of ``sweep.space``."""
    told = {"choice": told} if isinstance(told, list) else told
    kinds = [kind for kind in KINDS if isinstance(told, dict) and kind in told]
    others = sorted(set(told) - {*KINDS, "when"}) if isinstance(told, dict) else []
    if len(kinds) != 1 or others:
        hint = f" (not {', '.join(others)})" if others else ""
        raise ConfigError(
            f"sweep.space {key} must be a list of values, or one of {', '.join(KINDS)} with its values, and "
            f"`when` besides{hint}"
        )
    (kind,) = kinds
    values, when = told[kind], told.get("when") or {}
    if not isinstance(values, list) or not values or not isinstance(when, dict):
        raise ConfigError(f"sweep.space {key}: {kind} needs a list of values, and when a mapping of settings")
    conditions = tuple(sorted(dotted(when).items()))
    if kind == "choice":
        if len({repr(value) for value in values}) < len(values):
            raise ConfigError(f"sweep.space {key} lists a value twice: {values}")
        return Axis(key, kind, tuple(values), when=conditions)
    return _range(key, kind, values, conditions)


def _range(key: str, kind: str, values: Sequence[Any], when: tuple[tuple[str, Any], ...]) -> Axis:
    wanted = int if kind == "integer" else (int, float)
    shape = "[low, high] or [low, high, step]" if kind == "integer" else "[low, high]"
    numbers = all(isinstance(value, wanted) and not isinstance(value, bool) for value in values)
    if len(values) not in ((2, 3) if kind == "integer" else (2,)) or not numbers:
        raise ConfigError(f"sweep.space {key}: {kind} needs numbers {shape}, and has {list(values)}")
    low, high, *rest = values
    if not low < high or (kind == "log_uniform" and low <= 0) or (rest and rest[0] < 1):
        positive = ", above 0," if kind == "log_uniform" else ""
        steps = " in steps of 1 or more" if rest else ""
        raise ConfigError(
            f"sweep.space {key}: {kind} {list(values)} must go from a low{positive} to a high bound{steps}"
        )
    step = rest[0] if rest else 1
    return Axis(key, kind, (low, low + (high - low) // step * step if rest else high), step, when)


def _listed(axis: Axis) -> Sequence[Any]:
    low, high = axis.values[0], axis.values[-1]
    return axis.values if axis.kind == "choice" else range(low, high + 1, axis.step)


def _in_order(axes: Sequence[Axis]) -> list[Axis]:
    """Order axes so that those which a condition names come first.

    Raises:
        ConfigError: conditions go round in a circle.
    """
    ordered: list[Axis] = []
    waiting = list(axes)
    while waiting:
        named = {axis.key for axis in waiting}
        free = [axis for axis in waiting if not any(key in named for key, _ in axis.when)]
        if not free:
            raise ConfigError(
                f"the conditions of sweep.space {', '.join(sorted(named))} are a circle; leave one out"
            )
        ordered += free
        waiting = [axis for axis in waiting if axis not in free]
    return ordered
