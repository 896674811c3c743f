"""The same as a metric of evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from codex_ray.evaluate.metrics import Answered, Metric, mean
from codex_ray_vowels import share_of_vowels


def _shares(answered: Sequence[Answered]) -> NDArray[np.float64]:
    """Return a row for each example: the mean share of its answers, and 1, for the mean over examples."""
    shares = [np.mean([share_of_vowels(one.example.row, text) for text in one.texts]) for one in answered]
    return np.array([[share, 1.0] for share in shares]).reshape(-1, 2)


VOWELS = Metric("vowels", _shares, mean, references=False)
