"""What a group's rewards say of each of its rollouts: the search's objectives, by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codex_ray.config.discover import Learn
from codex_ray.discover.advantages import Floats, adaptive_beta, entropic_advantages, mean_baseline
from codex_ray.train.objectives.grpo import group_advantages


class Advantages:
    """Weighs the rollouts of a group by one of the objectives.

    Args:
        settings: which, and its numbers.
    """

    def __init__(self, settings: Learn) -> None:
        self._settings = settings

    def of(self, rewards: Sequence[float]) -> tuple[Floats, float]:
        """Return the advantages of one group's rollouts, [N], and the beta that they were weighed with.

        All are 0 where rewards are all equal, or nothing is trained; beta is where there is none.
        """
        kind = self._settings.objective
        if kind == "none" or min(rewards) == max(rewards):
            return np.zeros(len(rewards)), 0.0
        if kind == "standardised":
            return np.asarray(group_advantages(rewards, [0] * len(rewards))), 0.0
        # Two rewards cannot be told from noise by an entropy: such a group has the mean as its baseline.
        if kind == "expected" or len(rewards) == 2:
            return mean_baseline(rewards), 0.0
        if kind == "constant":
            beta = self._settings.beta
        else:
            beta = adaptive_beta(rewards, self._settings.divergence)
        return entropic_advantages(rewards, beta), beta
