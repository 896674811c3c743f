"""Problems whose answers are programs: baselines, good answers, and the cheats that are known."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from codex_ray.discover.problem import Problem, Refused, answer, find_problem, key_of
from codex_ray.discover.problems import deliveries, denoising, kernel
from codex_ray.discover.problems.blocks import last_block
from codex_ray.discover.problems.deliveries import Deliveries
from codex_ray.discover.problems.denoising import Denoising
from codex_ray.discover.problems.kernel import Kernel
from codex_ray.errors import ConfigError

CONSTRUCTIONS = {
    "erdos_min_overlap": ({"steps": 3}, "[0.5 + 40 ** -0.5, 0.5 - 2 * 40 ** -0.5, 0.5 + 40 ** -0.5]", 0.4),
    "autocorrelation_first": ({"steps": 3}, "[1, 2, 1]", 2.25),
    "autocorrelation_second": ({"steps": 2}, "np.array([2, 1])", 0.796296),
    "circle_packing_26": (
        {},
        "[[[x / 10, y / 10] for x in range(1, 10, 2) for y in range(1, 10, 2)] + [[0.2, 0.2]],"
        " [0.1 - 1e-12] * 25 + [0.0414213562373]]",
        2.5414213562,
    ),
}


def written(program: str) -> str:
    return f"Let me think.\n```text\nnot this\n```\nThis is it:\n```python\n{program}\n```\n"


def proposing(body: str) -> str:
    return written(f"import numpy as np\ndef propose(parent, seconds):\n    {body}")


@pytest.fixture(scope="module")
def problems() -> Callable[..., Problem]:
    """Find problems, each with one sandbox for all tests."""
    made: dict[str, Problem] = {}

    def find(name: str, **options: Any) -> Problem:
        key = json.dumps([name, options])
        if key not in made:
            made[key] = find_problem(name, "python", {"sandbox": {"wall_seconds": 5.0}, **options})
        return made[key]

    return find


@pytest.mark.parametrize("name", CONSTRUCTIONS)
def test_constructions_by_programs(problems: Callable[..., Problem], name: str) -> None:
    options, made, figure = CONSTRUCTIONS[name]
    problem = problems(name, **options)
    seed = problem.seeds(1, 2)[0]
    verdict = problem.verify(seed)
    assert verdict.valid and "propose(parent, seconds)" in problem.prompt(seed, verdict)
    got = answer(problem, seed, proposing(f"return {made}"))
    assert got.verdict.valid, got.verdict.reason
    assert got.verdict.figure == pytest.approx(figure, abs=1e-6)
    again = answer(problem, seed, proposing(f"x = 1; return {made}"))
    assert key_of(problem.identity(again.solution)) == key_of(problem.identity(got.solution))
    assert json.loads(json.dumps(got.solution)) == got.solution  # which is kept as JSON
    assert "np" in problem.prompt(got.solution, got.verdict)  # the program is told to the next one
    assert problem.certificate(got.solution)["how"]
    assert problem.draw(got.solution).startswith("<svg") or "<svg" in problem.draw(got.solution)


CHEATS = {
    "a claim": ("return [0.5] * 48, 0.38, 48", "a list of numbers is wanted|number 0 is a list"),
    "nothing": ("return None", "a list of numbers is wanted, not a NoneType"),
    "not a number": ("return [float('nan')] * 48", "number 0 is not finite"),
    "infinite": ("return [1e999] * 48", "number 0 is not finite"),
    "yes and no": ("return [True, False]", "number 0 is a bool"),
    "too many": ("return [0.5] * 1001", "1001 numbers are given"),
    "too large": ("return [1.2, -0.2]", "outside 0 to 1"),
    "another integral": ("return [0.4] * 48", "the integral is 0.8, not 1"),
    "text": ("return '0.38'", "a list of numbers is wanted, not a str"),
    "what it was given": ("return parent", "returned what it was given"),
    "raising": ("return 1 / 0", "ZeroDivisionError: division by zero, line 3"),
    "the verifier": ("import codex_ray.discover.problems.erdos", "ModuleNotFoundError"),
    "leaving": ("import os; os._exit(0)", "ended with status 0 before it answered"),
    "hanging": ("import time; time.sleep(100)", "took longer than 5 s"),
    "an object": ("return type('All', (), {'__eq__': lambda *_: True})()", "a All cannot leave the sandbox"),
}


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_of_constructions(problems: Callable[..., Problem], name: str) -> None:
    body, reason = CHEATS[name]
    problem = problems("erdos_min_overlap")
    got = answer(problem, problem.seeds(1, 1)[0], proposing(body))
    assert not got.verdict.valid and got.verdict.reward == 0.0
    assert re.search(reason, got.verdict.reason), got.verdict.reason


def test_a_solution_of_another_form_is_refused(problems: Callable[..., Problem]) -> None:
    problem = problems("erdos_min_overlap")
    for wrong in ([0.5] * 48, {"made": [0.5]}, {"made": None, "program": ""}, None):
        assert not problem.verify(wrong).valid


def test_the_last_block_counts() -> None:
    assert last_block("```python\na\n```\n```python\nb\n```\n") == "b\n"
    assert last_block("```\na\n```") == "a\n"
    assert last_block("```python\ns = '```'\n```\nafter") == "s = '```'\n"
    assert last_block("```python\na\n```\n```sh\nb\n```\n", ("python",)) == "a\n"
    for nothing in ("", "def f(): pass", "```python\n\n```", "```python\nunclosed", "```sh\nls\n```"):
        with pytest.raises(Refused, match="no block of Python"):
            last_block(nothing, ("python",))
    with pytest.raises(Refused, match="longer than"):
        last_block("```python\n" + "x" * 200_000 + "\n```")


def test_settings_of_the_sandbox_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"options\.sandbox\.wall_second"):
        find_problem("erdos_min_overlap", "python", {"sandbox": {"wall_second": 3.0}})


# Deliveries


@pytest.fixture(scope="module")
def routes() -> Deliveries:
    return Deliveries(cases=3, seconds=2.0)


def test_baseline_of_deliveries(routes: Deliveries) -> None:
    seed = routes.seeds(0, 4)[0]
    verdict = routes.verify(seed)
    assert verdict.valid and verdict.figure == pytest.approx(123_500, rel=0.05)
    better = seed.replace("_, order, delivers = min(steps)", "_, order, delivers = min(steps)  # the same")
    got = answer(routes, seed, written(better))
    assert got.verdict.figure == verdict.figure and key_of(got.solution) != key_of(seed)
    assert routes.certificate(seed)["figure_elsewhere"] != verdict.figure
    assert Deliveries().baseline is not None and deliveries.FEWEST >= 150


@pytest.mark.verify
def test_the_baselines_figure_is_the_one_that_is_named() -> None:
    problem = Deliveries()
    assert problem.baseline is not None
    assert problem.verify(deliveries.GREEDY).figure == pytest.approx(problem.baseline.figure, abs=0.01)


def test_routes_by_hand() -> None:
    orders = [(500, 500, 510, 500)] * deliveries.ORDERS
    twice = " ".join(str(i) for i in range(1, 21) for _ in (0, 1))
    assert deliveries.length_of(twice, orders) == 10 + 19 * 20 + 10
    for wrong, reason in (
        ("", "0 words"),
        ("1 " * 39, "39 words"),
        ("1 " * 40, "stands there 40 times"),
        ("1 " * 39 + "x", "'x' is no number"),
        ("1 " * 39 + "61", "'61' is no number"),
        ("1 " * 39 + "0", "'0' is no number"),
        ("1 " * 39 + "-1", "'-1' is no number"),
        ("1 " * 39 + "²", "is no number"),
        (twice.replace("20 20", "20 19"), "times, not twice"),
    ):
        found = deliveries.length_of(wrong, orders)
        assert isinstance(found, str) and reason in found


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("print('score', 10 ** 9)", "words were printed"),
        ("import sys; sys.exit(0)", "0 words were printed"),
        ("while True: pass", "took longer than|processor time"),
        ("print(*[1] * 40)", "stands there 40 times"),
        ("import os, time\nos.fork()\ntime.sleep(5)", "BlockingIOError|took longer"),
        ("open('/tmp/cases', 'a').write(input())\nprint(len(open('/tmp/cases').read().split()))", "1 words"),
        ("import deliveries", "ModuleNotFoundError"),
    ],
)
def test_cheats_of_deliveries(routes: Deliveries, program: str, reason: str) -> None:
    verdict = routes.verify(program)
    assert not verdict.valid and re.search(f"case 0: .*({reason})", verdict.reason), verdict.reason
    assert not routes.verify(7).valid


# The kernel

FASTER = (
    "import numpy as np\n"
    "def gaussian_sum(x, y, w):\n"
    "    power = x @ y.T * 2 - (x * x).sum(1)[:, None] - (y * y).sum(1)\n"
    "    return np.exp(power) @ w\n"
)
KERNEL_CHEATS = {
    "a clock that stands": (
        "import time, numpy as np\ntime.perf_counter = time.time = lambda: 0.0\n" + kernel.REFERENCE,
        "",
    ),
    "keeping results": (
        "import numpy as np\nkept = {}\n"
        "def gaussian_sum(x, y, w):\n"
        "    if x.shape not in kept: kept[x.shape] = np.exp(-((x[:, None] - y[None]) ** 2).sum(2)) @ w\n"
        "    return kept[x.shape]\n",
        "the output differs",
    ),
    "fewer digits": (
        "import numpy as np\n"
        "def gaussian_sum(x, y, w):\n"
        "    x, y = x.astype(np.float32), y.astype(np.float32)\n"
        "    out = np.exp(-((x[:, None] - y[None]) ** 2).sum(2)) @ w.astype(np.float32)\n"
        "    return out.astype(np.float64)\n",
        "the output differs",
    ),
    "zeros": ("import numpy as np\ndef gaussian_sum(x, y, w): return np.zeros(len(x))", "the output differs"),
    "not a number": (
        "import numpy as np\ndef gaussian_sum(x, y, w): return x[:, 0] * np.nan",
        "differs by nan",
    ),
    "another shape": ("def gaussian_sum(x, y, w): return w", "no array of float64 of shape"),
    "another kind": ("def gaussian_sum(x, y, w): return [0.0] * len(x)", "no array of float64"),
    "an answer ahead": (
        'import os\nos.write(4, b\'{"value":null}\\n{"value":1}\\n\')',
        "before it was asked|no function",
    ),
    "threads": (
        "import numpy as np, threading\n"
        "def gaussian_sum(x, y, w):\n    threading.Thread(target=print).start()",
        "can't start new thread",
    ),
}


@pytest.fixture(scope="module")
def timed() -> Kernel:
    return Kernel(pairs=2, seconds=60.0)


def test_a_faster_kernel_is_faster(timed: Kernel) -> None:
    same, faster = timed.verify(kernel.REFERENCE), timed.verify(FASTER)
    assert same.valid and faster.valid, (same, faster)
    assert faster.value > 1.5 * same.value  # 6 to 8 times on a machine at rest
    assert not timed.repeatable


@pytest.mark.parametrize("name", KERNEL_CHEATS)
def test_cheats_of_the_kernel(timed: Kernel, name: str) -> None:
    program, reason = KERNEL_CHEATS[name]
    verdict = timed.verify(program)
    if not reason:
        assert verdict.valid and 0.2 < verdict.value < 5  # as slow as it is, whatever its clock says
    else:
        assert not verdict.valid and re.search(reason, verdict.reason), verdict.reason


# Denoising


@pytest.fixture(scope="module")
def cells() -> Denoising:
    return Denoising(sets=1)


def test_baseline_of_denoising(cells: Denoising) -> None:
    problem = Denoising()
    assert problem.baseline is not None
    verdict = problem.verify(denoising.NEIGHBOURS)
    assert verdict.figure == pytest.approx(problem.baseline.figure, abs=0.002)
    assert cells.verify("def denoise(counts): return counts").figure == 0.0
    low_rank = (
        "import numpy as np\n"
        "def denoise(counts):\n"
        "    left, sizes, right = np.linalg.svd(np.sqrt(counts), full_matrices=False)\n"
        "    return np.maximum((left[:, :8] * sizes[:8]) @ right[:8], 1e-3) ** 2\n"
    )
    got = answer(cells, problem.seeds(0, 1)[0], written(low_rank))
    assert got.verdict.value > 0.9 and 0.85 < cells.certificate(low_rank)["figure_elsewhere"] < 1


def test_no_rates_are_better_than_the_true_ones() -> None:
    counts, rates = denoising.cells(0)
    assert denoising.error(rates, rates) == 0.0
    assert denoising.error(rates * 7, rates) == pytest.approx(0.0, abs=1e-20)  # a factor does not count
    assert denoising.error(counts, rates) > 0.1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("counts * float('nan')", "not finite"),
        ("-counts", "negative"),
        ("counts * 0", "no rate above 0"),
        ("counts * 1e300", "beyond 1e12"),
        ("counts[:5]", "of shape"),
        ("counts.tolist()", "no array"),
        ("counts.astype(str)", "cannot leave"),
        ("None", "no array"),
    ],
)
def test_what_are_no_rates(cells: Denoising, body: str, reason: str) -> None:
    verdict = cells.verify(f"def denoise(counts): return {body}")
    assert not verdict.valid and reason in verdict.reason, verdict.reason
    assert np.isneginf(verdict.value)
