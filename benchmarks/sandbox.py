"""The sandbox: milliseconds of an evaluation from start to end, and evaluations per second.

    python -m benchmarks.sandbox [--evaluations N] [--turns N]

An evaluation loads a short program that imports NumPy, calls a function of it and takes the result, in a
sandbox that is made for it and gone after it. Beside it, by turns: the same program in a bare Python process,
which contains nothing, and in one under bubblewrap where that is installed, each started anew. Throughput is
of one sandbox after another and of one per core at the same time, each driven by its own process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import multiprocessing.synchronize
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.results import Figure, write_result
from codex_ray.sandbox.sandbox import Sandbox

PROGRAM = "import numpy as np\ndef f(x):\n    return float(np.sqrt(np.arange(x)).sum())\n"
WHOLE = PROGRAM + "import json\nprint(json.dumps(f(1000)))\n"
AIM_MILLISECONDS = 34.0  # of bubblewrap alone, before any Python has started


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description="The sandbox beside bare processes and bubblewrap.")
    parser.add_argument("--evaluations", type=int, default=100, help="evaluations of a turn")
    parser.add_argument("--turns", type=int, default=5, help="turns, each of every kind")
    arguments = parser.parse_args()
    began = time.perf_counter()
    with Sandbox() as sandbox:
        started = time.perf_counter() - began
        kinds: dict[str, Callable[[], None]] = {"sandbox": lambda: _in(sandbox), "process": _bare}
        if shutil.which("bwrap"):
            kinds["bubblewrap"] = _wrapped
        times: dict[str, list[float]] = {name: [] for name in kinds}
        for turn in range(arguments.turns):
            for name, evaluate in kinds.items():
                for _ in range(arguments.evaluations if name == "sandbox" else arguments.evaluations // 10):
                    began = time.perf_counter()
                    evaluate()
                    times[name].append(1e3 * (time.perf_counter() - began))
            print(
                f"turn {turn + 1}: "
                + ", ".join(f"{name} {statistics.median(all_):.1f} ms" for name, all_ in times.items())
            )
    cores = len(os.sched_getaffinity(0))
    medians = {name: statistics.median(all_) for name, all_ in times.items()}
    figures = {
        "sandbox_milliseconds": Figure(medians["sandbox"], "ms", "lower", aim=AIM_MILLISECONDS),
        "sandbox_milliseconds_p95": Figure(statistics.quantiles(times["sandbox"], n=20)[-1], "ms", "lower"),
        "sandbox_start_seconds": Figure(started, "s", "lower"),
        "sandbox_evaluations_per_second_1": Figure(_throughput(1, arguments.evaluations), "1/s", "higher"),
        f"sandbox_evaluations_per_second_{cores}": Figure(
            _throughput(cores, arguments.evaluations), "1/s", "higher"
        ),
        "bare_process_milliseconds": Figure(medians["process"], "ms", "lower"),
    }
    if "bubblewrap" in medians:
        figures["bubblewrap_milliseconds"] = Figure(medians["bubblewrap"], "ms", "lower")
    print(write_result("sandbox", figures, {"evaluations": arguments.evaluations, "turns": arguments.turns}))


def _in(sandbox: Sandbox) -> None:
    assert sandbox.call(PROGRAM, "f", 1000).ok


def _bare() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WHOLE], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) > 0


def _wrapped() -> None:
    """The same under bubblewrap: all namespaces, this Python and the system's libraries read-only."""
    paths = ["/usr", "/lib", "/lib64", sys.base_prefix, sys.prefix]
    seen = {*filter(os.path.exists, paths), *map(os.path.realpath, paths)}
    binds = [word for path in sorted(seen) for word in ("--ro-bind", path, path)]
    words = [
        "bwrap",
        "--unshare-all",
        "--die-with-parent",
        "--clearenv",
        "--tmpfs",
        "/tmp",
        "--dev",
        "/dev",
        *binds,
    ]
    done = subprocess.run(
        [*words, sys.executable, "-c", WHOLE], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) > 0


def _throughput(sandboxes: int, evaluations: int) -> float:
    """Return evaluations per second of several sandboxes at a time."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(sandboxes + 1)
    workers = [context.Process(target=_work, args=(barrier, evaluations)) for _ in range(sandboxes)]
    for worker in workers:
        worker.start()
    barrier.wait(120)
    began = time.perf_counter()
    barrier.wait(600)
    seconds = time.perf_counter() - began
    for worker in workers:
        worker.join(60)
    return sandboxes * evaluations / seconds


def _work(barrier: multiprocessing.synchronize.Barrier, evaluations: int) -> None:
    with Sandbox() as sandbox:
        _in(sandbox)
        barrier.wait(120)
        for _ in range(evaluations):
            _in(sandbox)
        barrier.wait(600)


if __name__ == "__main__":
    main()
