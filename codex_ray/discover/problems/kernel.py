"""A kernel to be made faster: a NumPy function of equal output, timed beside the one that is here.

The function is a sum of Gaussians: ``out[i] = sum_j exp(-|x_i - y_j|^2) w_j``. It and the program's run in a
sandbox each, by turns, over several shapes, with new numbers in every call, which are drawn here; time is
taken here, from sending the numbers to having the whole output, and every output is compared with one
computed here. So a program gains nothing by a clock of its own, by keeping results, by answering before it
has them, or by changing NumPy: all of that stays in its own process. Sandboxes have one thread; GPUs cannot
be used in them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codex_ray.discover.problem import MAXIMISE, Bound, Problem
from codex_ray.discover.problems.blocks import PYTHON, last_block
from codex_ray.discover.problems.python import InSandbox
from codex_ray.discover.problems.verdict import Verdict
from codex_ray.errors import CodexRayError, ConfigError

FUNCTION = "gaussian_sum"
SHAPES = ((256, 512, 16), (512, 512, 8), (384, 768, 32))
TOLERANCE = 1e-9  # relative to the largest output
Array = NDArray[np.float64]

REFERENCE = '''\
import numpy as np


def gaussian_sum(x, y, w):
    """x [n, d], y [m, d], w [m], all float64; returns [n]."""
    difference = x[:, None, :] - y[None, :, :]
    return np.exp(-(difference ** 2).sum(axis=2)) @ w
'''


class Kernel(Problem):
    """The problem.

    Args:
        pairs: calls of both at each shape, after one that is not timed.
        seconds: longest time of a program in all.
        sandbox: other settings of the sandbox.
    """

    name = "kernel_speed"
    direction = MAXIMISE
    baseline = Bound(1.0, "differences of all pairs in one array")
    repeatable = False  # a time is never the same twice

    def __init__(
        self, pairs: int = 7, seconds: float = 60.0, sandbox: Mapping[str, Any] | None = None
    ) -> None:
        if pairs < 1:
            raise ConfigError(f"kernel_speed needs a pair of calls or more, not {pairs}")
        self._pairs = pairs
        limits: dict[str, Any] = {"wall_seconds": seconds, "cpu_seconds": math.ceil(seconds), "processes": 1}
        limits["result_bytes"] = 2**22
        self._program, self._reference = InSandbox(sandbox, **limits), InSandbox(sandbox, **limits)

    def seeds(self, seed: int, count: int) -> list[Any]:
        """Return the function that is here."""
        return [REFERENCE]

    def verify(self, solution: Any) -> Verdict:
        """Time a program beside the function that is here: the geometric mean of how often it is faster."""
        if not isinstance(solution, str):
            return Verdict.refused(f"a program is text, not a {type(solution).__name__}")
        with (
            self._program.sandbox.open(solution) as program,
            self._reference.sandbox.open(REFERENCE) as reference,
        ):
            loaded = program.load()
            if not loaded.ok:
                return Verdict.refused(loaded.reason)
            reference.load()
            draw = np.random.default_rng()  # not to be foreseen
            ratios = []
            for shape in SHAPES:
                pairs = []
                for turn in range(self._pairs + 1):
                    given = drawn(draw, shape)
                    wanted = expected(*given)
                    taken = {}
                    for name in ("ours", "theirs") if turn % 2 else ("theirs", "ours"):
                        session = reference if name == "ours" else program
                        began = time.perf_counter()
                        done = session.call(FUNCTION, *given)
                        taken[name] = time.perf_counter() - began
                        wrong = done.reason or difference(done.value, wanted)
                        if wrong and name == "ours":
                            raise CodexRayError(f"the kernel that is here failed in the sandbox: {wrong}")
                        if wrong:
                            return Verdict.refused(f"shape {shape}: {wrong}")
                    if turn:  # the first of each shape warms up
                        pairs.append(taken["ours"] / taken["theirs"])
                ratios.append(statistics.median(pairs))
        speed = statistics.geometric_mean(ratios)
        return Verdict(valid=True, reward=speed, value=speed, figure=speed)

    def prompt(self, solution: Any, verdict: Verdict) -> str:
        """Tell the task, and the program to be bettered."""
        about = self._program.described(f"{FUNCTION}(x, y, w)", "NumPy arrays of float64")
        return (
            "Make a function faster at equal output (to 1e-9 of the largest).\n\n"
            f"```python\n{REFERENCE}```\nShapes n, m, d: {', '.join(map(str, SHAPES))}. New numbers come "
            f"with every call.\n\n{about}\n\nNow: {verdict.figure:.3f} times as fast, by\n"
            f"```python\n{solution}```\n"
        )

    def read(self, solution: Any, text: str) -> Any:
        """Take the answer's program; it runs when it is graded."""
        return last_block(text, PYTHON)


def drawn(draw: np.random.Generator, shape: tuple[int, int, int]) -> tuple[Array, Array, Array]:
    """Return numbers of a shape, their scale another one each time."""
    n, m, d = shape
    scale = draw.uniform(0.5, 1.0) / math.sqrt(d)
    return scale * draw.standard_normal((n, d)), scale * draw.standard_normal((m, d)), draw.standard_normal(m)


def expected(x: Array, y: Array, w: Array) -> Array:
    """Return the right output, a row at a time."""
    return np.array([np.exp(-((row - y) ** 2).sum(axis=1)) @ w for row in x])


def difference(found: Any, wanted: Array) -> str:
    """Return what is wrong with an output; empty where nothing is."""
    if not isinstance(found, np.ndarray) or found.shape != wanted.shape or found.dtype != wanted.dtype:
        return f"the output is no array of {wanted.dtype} of shape {wanted.shape}"
    worst = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    return "" if worst <= TOLERANCE else f"the output differs by {worst:.3g} of the largest"
