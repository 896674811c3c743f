"""Denoising of counts as single cells give them: what was counted is little, what is sought is the rate.

Cells are drawn here: a few types along a few gene programs, depths that vary, and counts that are Poisson of
the rates. A program is given counts and returns rates; the rates that they were drawn from never enter the
sandbox. The score is the share of the counts' error that is gone, 0 for the counts themselves and 1 for the
true rates, both scaled to 10,000 in each cell and taken by log(1 + x), as is usual.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codex_ray.discover.problem import MAXIMISE, Bound, Problem
from codex_ray.discover.problems.blocks import PYTHON, last_block
from codex_ray.discover.problems.python import InSandbox
from codex_ray.discover.problems.verdict import Verdict
from codex_ray.errors import ConfigError

FUNCTION = "denoise"
CELLS, GENES, TYPES, PROGRAMS = 300, 200, 8, 8
SCALE = 10_000.0
Array = NDArray[np.float64]

NEIGHBOURS = '''\
import numpy as np


def denoise(counts):
    """Mean of the 15 nearest cells, by principal components of the scaled counts."""
    scaled = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * 10000
    logged = np.log1p(scaled)
    centred = logged - logged.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    parts = left[:, :10] * sizes[:10]
    apart = ((parts[:, None] - parts[None]) ** 2).sum(axis=2)
    near = np.argsort(apart, axis=1)[:, :15]
    return scaled[near].mean(axis=1)
'''

_TASK = f"""\
Denoise counts of single cells. `{FUNCTION}(counts)` is given an array of float64, {CELLS} cells by {GENES}
genes, and returns the rates that they were drawn from (Poisson), up to a factor for each cell. Rates come
from a few types of cells and a few programs of genes. The figure is 1 - error / error of the counts
themselves, errors being mean squares
of log(1 + x) after each cell is scaled to {SCALE:g}."""


class Denoising(Problem):
    """The problem.

    Args:
        sets: of cells that a program is scored on.
        sandbox: other settings of the sandbox.
    """

    name = "denoising"
    direction = MAXIMISE

    def __init__(self, sets: int = 4, sandbox: Mapping[str, Any] | None = None) -> None:
        if sets < 1:
            raise ConfigError(f"denoising needs a set of cells or more, not {sets}")
        self._sets = [cells(seed) for seed in range(sets)]
        self._cell = InSandbox(sandbox, wall_seconds=20.0, cpu_seconds=20, processes=1, result_bytes=2**22)
        self.baseline = Bound(BASELINE, "mean of the 15 nearest cells") if sets == 4 else None

    def seeds(self, seed: int, count: int) -> list[Any]:
        """Return the baseline's program."""
        return [NEIGHBOURS]

    def verify(self, solution: Any) -> Verdict:
        """Run a program on every set of cells, each in a sandbox of its own."""
        return self._graded(solution, self._sets)

    def certificate(self, solution: Any) -> dict[str, Any]:
        """Return the figure on other cells, which no search has seen."""
        other = self._graded(solution, [cells(10**6 + place) for place in range(len(self._sets))])
        return {
            "figure_elsewhere": other.figure,
            "reason_elsewhere": other.reason,
            "how": f"{len(self._sets)} other sets of cells",
        }

    def _graded(self, solution: Any, sets: list[tuple[Array, Array]]) -> Verdict:
        if not isinstance(solution, str):
            return Verdict.refused(f"a program is text, not a {type(solution).__name__}")
        scores = []
        for place, (counts, rates) in enumerate(sets):
            done = self._cell.sandbox.call(solution, FUNCTION, counts)
            wrong = done.reason or unusable(done.value)
            if wrong:
                return Verdict.refused(f"set {place}: {wrong}")
            scores.append(1 - error(done.value, rates) / error(counts, rates))
        score = float(np.mean(scores))
        # Rewards are no worse than the counts' own: below that, how bad is not worth learning.
        return Verdict(valid=True, reward=max(0.0, score), value=score, figure=score)

    def prompt(self, solution: Any, verdict: Verdict) -> str:
        """Tell the task, and the program to be bettered."""
        about = self._cell.described(f"{FUNCTION}(counts)", "the counts")
        return f"{_TASK}\n\n{about}\n\nNow: {verdict.figure:.5f}, by\n```python\n{solution}```\n"

    def read(self, solution: Any, text: str) -> Any:
        """Take the answer's program; it runs when it is graded."""
        return last_block(text, PYTHON)


BASELINE = 0.84015  # of NEIGHBOURS, on four sets


def cells(seed: int) -> tuple[Array, Array]:
    """Return counts and the rates that they were drawn from, both [cells, genes]."""
    draw = np.random.default_rng([20260128, seed])
    programs = draw.gamma(0.25, 1.0, (PROGRAMS, GENES))
    types = draw.dirichlet(np.full(PROGRAMS, 0.25), TYPES)
    own = types[draw.integers(TYPES, size=CELLS)]
    mixed = 0.8 * own + 0.2 * draw.dirichlet(np.full(PROGRAMS, 0.5), CELLS)
    rates = mixed @ programs + 1e-3
    rates *= draw.lognormal(np.log(4000.0), 0.4, (CELLS, 1)) / rates.sum(axis=1, keepdims=True)
    return draw.poisson(rates).astype(np.float64), rates


def unusable(found: Any) -> str:
    """Return why what a program returned are no rates; empty where they are."""
    if not isinstance(found, np.ndarray) or found.shape != (CELLS, GENES) or found.dtype.kind not in "fiu":
        return f"the rates are no array of numbers of shape {(CELLS, GENES)}"
    if not np.isfinite(found).all() or (found < 0).any() or found.max() > 1e12:
        return "a rate is negative, beyond 1e12 or not finite"
    return "a cell has no rate above 0" if (found.sum(axis=1) <= 0).any() else ""


def error(found: Array, rates: Array) -> float:
    """Return the mean square of the difference of logarithms, cells scaled alike."""
    return float(np.mean((_logged(found) - _logged(rates)) ** 2))


def _logged(values: Array) -> Array:
    scaled: Array = values / np.maximum(values.sum(axis=1, keepdims=True), 1e-12) * SCALE
    return np.log1p(scaled)
