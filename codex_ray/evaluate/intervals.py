"""Intervals around figures, and whether two sets of answers differ, both by resampling examples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from codex_ray.config.evaluate import Bootstrap
from codex_ray.errors import ConfigError
from codex_ray.evaluate.metrics import Array, Combine

AT_ONCE = 2**21
"""Most draws of examples held at a time."""


@dataclass(frozen=True)
class Interval:
    """A figure, and where it may well lie in truth.

    Attributes:
        value: over all examples; ``low``, ``high``: ends of the interval.
        examples: how many it is over.
        method: ``bootstrap`` (percentiles), or ``wilson`` where every example scored 0 or every one 1, which
            no resample can vary.
    """

    value: float
    low: float
    high: float
    examples: int
    method: str = "bootstrap"


@dataclass(frozen=True)
class Difference:
    """How much better the second of two sets of answers is.

    Attributes:
        first, second: values over all examples.
        difference: second less first, with its interval.
        p_value: of no difference, two-sided, by exchanging the answers of examples at random.
    """

    first: float
    second: float
    difference: Interval
    p_value: float


def bootstrap(statistics: Array, combine: Combine, settings: Bootstrap) -> Interval:
    """Return a metric's value and the percentile interval of its bootstrap over examples (Efron 1979).

    Args:
        statistics: what sums up to the metric, finite ``[examples, D]``.
        combine: from sums to values.
        settings: how often, how wide, and the seed.

    Raises:
        ConfigError: there are no examples, or a number is not finite.
    """
    count = _check(statistics)
    value = float(combine(statistics.sum(axis=0, keepdims=True))[0])
    singles = statistics[:, 0]
    if (
        statistics.shape[1] == 2
        and (statistics[:, 1] == 1).all()
        and np.unique(singles).tolist() in ([0.0], [1.0])
    ):
        return Interval(value, *_wilson(value, count, settings.confidence), count, "wilson")
    drawn = np.concatenate([combine(counts @ statistics) for counts in _draws(count, settings)])
    low, high = _ends(drawn, settings.confidence)
    return Interval(value, low, high, count)


def paired(first: Array, second: Array, combine: Combine, settings: Bootstrap) -> Difference:
    """Compare two sets of answers to the same examples, row by row.

    The interval is that of a bootstrap which draws the same examples for both. The p-value is of a
    randomisation test (Noreen 1989; Riezler and Maxwell 2005): under no difference the two answers to an
    example may be exchanged. It is counted with the observed exchange itself, so it is never 0.

    Raises:
        ConfigError: no examples, not as many of both, or a number that is not finite.
    """
    count = _check(first)
    if _check(second) != count or first.shape != second.shape:
        raise ConfigError(
            f"{len(first)} and {len(second)} examples cannot be compared in pairs; give the same examples"
        )
    before, after = (float(combine(one.sum(axis=0, keepdims=True))[0]) for one in (first, second))
    drawn = np.concatenate(
        [combine(counts @ second) - combine(counts @ first) for counts in _draws(count, settings)]
    )
    low, high = _ends(drawn, settings.confidence)
    observed = after - before
    apart, total = second - first, (first.sum(axis=0), second.sum(axis=0))
    as_far = 0
    for kept in _coins(count, settings):
        moved = kept @ apart
        as_far += int(
            (np.abs(combine(total[1] - moved) - combine(total[0] + moved)) >= abs(observed) - 1e-12).sum()
        )
    p_value = (1 + as_far) / (1 + settings.resamples)
    return Difference(before, after, Interval(observed, low, high, count), p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for how many there are (Holm 1979)."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def _check(statistics: Array) -> int:
    if not len(statistics):
        raise ConfigError("there are no examples to resample; give at least one")
    if statistics.dtype.kind not in "fiub" or not np.isfinite(statistics).all():
        raise ConfigError("scores to resample must be finite numbers; leave out those that are not")
    return len(statistics)


def _draws(count: int, settings: Bootstrap) -> Iterator[NDArray[np.float64]]:
    """Draw with return: how often each example is in each resample ``[R, count]``."""
    generator = np.random.default_rng(settings.seed)
    for size in _sizes(count, settings.resamples):
        drawn = generator.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)


def _coins(count: int, settings: Bootstrap) -> Iterator[NDArray[np.float64]]:
    """Throw a coin for each example: whether its answers are exchanged ``[R, count]``."""
    generator = np.random.default_rng([settings.seed, 1])
    for size in _sizes(count, settings.resamples):
        yield generator.integers(2, size=(size, count)).astype(np.float64)


def _sizes(count: int, resamples: int) -> Iterator[int]:
    most = max(1, AT_ONCE // count)
    for start in range(0, resamples, most):
        yield min(most, resamples - start)


def _ends(drawn: Array, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _wilson(share: float, count: int, confidence: float) -> tuple[float, float]:
    """Return Wilson's score interval (1927) of a share."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (0.0 if share == 0 else middle - half), (1.0 if share == 1 else middle + half)
