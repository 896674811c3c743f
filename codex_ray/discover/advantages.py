"""Advantages that favour the best of a group: the entropic objective of TTT-Discover (arXiv 2601.16175, A.1).

``J = log E[exp(beta * r)]`` lies between the expected reward (beta to 0) and the highest (beta to infinity).
Its gradient weighs each sample by ``w = exp(beta r) / E[exp(beta r)]``, and ``E[w] = 1`` is a free baseline.

Shape legend: N rewards of one group.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

TARGET = math.log(2)
MOST_BETA = 1e6
SMALLEST_BOUND = 20.0
_BISECTIONS = 100  # of an interval of at most 1e6: to the last bit


def tilt(rewards: ArrayLike, beta: float) -> Floats:
    """Return softmax(beta * rewards): what the group is to become, [N]."""
    rewards_N = np.asarray(rewards, dtype=np.float64)
    shares_N = np.exp(beta * (rewards_N - rewards_N.max()))
    tilted: Floats = shares_N / shares_N.sum()
    return tilted


def kl_to_uniform(rewards: ArrayLike, beta: float) -> float:
    """Return KL(tilted group || uniform) in nats: 0 at beta 0, rising to ln(N / ties at the top)."""
    q_N = tilt(rewards, beta)
    some = q_N[q_N > 0]
    return float((some * np.log(some * len(q_N))).sum())


def adaptive_beta(rewards: ArrayLike, target: float = TARGET, most: float = MOST_BETA) -> float:
    """Return the beta whose KL to the uniform group is ``target``; ``most`` where none below it reaches that.

    Half of a group or more tied at the top cannot reach ln 2. A group of one, or of equal rewards, has 0.
    """
    rewards_N = np.asarray(rewards, dtype=np.float64)
    if len(rewards_N) < 2 or rewards_N.min() == rewards_N.max():
        return 0.0
    high = 1.0
    while kl_to_uniform(rewards_N, high) < target:
        if high >= most:
            return most
        high = min(2 * high, most)
    low = 0.0
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        if kl_to_uniform(rewards_N, middle) < target:
            low = middle
        else:
            high = middle
    return high


def entropic_advantages(rewards: ArrayLike, beta: float, most: float | None = None) -> Floats:
    """Return leave-one-out advantages: ``e_n / mean of the others' e - 1`` with ``e = exp(beta * r)``, [N].

    None is below -1. A group of one, or of equal rewards, has 0.

    Args:
        rewards: of the group; beta: how much the best counts.
        most: no advantage is above it. Unset is N, or 20 for smaller groups, which a group of three or more
            under its adaptive beta stays below; the formula itself gives a winner of two up to 1e12.
    """
    rewards_N = np.asarray(rewards, dtype=np.float64)
    count = len(rewards_N)
    if count < 2 or rewards_N.min() == rewards_N.max():
        return np.zeros(count)
    e_N = np.exp(beta * (rewards_N - rewards_N.max()))
    others_N = np.array([e_N[:n].sum() + e_N[n + 1 :].sum() for n in range(count)]) / (count - 1)
    bound = max(count, SMALLEST_BOUND) if most is None else most
    advantages: Floats = np.minimum(e_N / (others_N + 1e-12) - 1.0, bound)
    return advantages


def mean_baseline(rewards: ArrayLike) -> Floats:
    """Return each reward minus the group's mean, [N]: the expected reward's arm."""
    rewards_N = np.asarray(rewards, dtype=np.float64)
    centred: Floats = rewards_N - rewards_N.mean() if len(rewards_N) else rewards_N
    return centred
