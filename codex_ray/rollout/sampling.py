"""How tokens are drawn, and the seeds of rows; what chooses them is :mod:`codex_ray.rollout.choosing`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from codex_ray.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn: temperature first, then ``top_k``, ``top_p`` and ``min_p``, each of what is left.

    Attributes:
        temperature: 0 is greedy.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the smallest set of tokens with this probability.
        min_p: drop tokens less likely than this share of the likeliest one.

    Raises:
        ConfigError: a value that cannot be right.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature must be a number from 0 up, not {self.temperature}; 0 is greedy")
        if self.top_k < 0:
            raise ConfigError(f"top_k must be at least 0, not {self.top_k}; 0 keeps every token")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be above 0 and at most 1, not {self.top_p}; 1 keeps every token")
        if not 0 <= self.min_p < 1:
            raise ConfigError(f"min_p must be from 0 to below 1, not {self.min_p}; 0 keeps every token")


def row_seeds(seed: int, rows: int) -> list[int]:
    """Return one seed per row, each a function of ``seed`` and the row's number alone."""
    return [
        int(np.random.SeedSequence(seed, spawn_key=(row,)).generate_state(1, np.uint64)[0])
        for row in range(rows)
    ]
