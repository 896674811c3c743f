"""What ``plan`` says beside what a run takes, on this machine: memory of a worker and time of a step.

    python -m benchmarks.plan CORPUS [--cases N]

For the recipes of two cores, with mHC and with plain residuals, on one and on two workers: the plan, then a
run of a few steps of 4,096 tokens; then the most memory that any worker held until its last step (VmHWM, read
while it runs) and the median time from one step's end to the next's. Errors are shares of what was measured;
the figures are the largest. What is measured is written at once; ``--cases`` ends after so many.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.results import Figure, write_result
from benchmarks.scale.memory import high_water
from codex_ray.cluster.session import open_session
from codex_ray.config.compose import compose
from codex_ray.config.fields import build, to_dict
from codex_ray.config.plan import Plan
from codex_ray.config.train import Pretrain
from codex_ray.plan.verb import planned_run
from codex_ray.track.metrics import read_metrics
from codex_ray.train.driver import pretrain
from codex_ray.train.messages import MessageReader

CASES = (
    ("cpu-tiny", "mhc-tiny", 2),
    ("cpu-tiny", "plain-tiny", 1),
    ("cpu-20m", "plain-20m", 2),
    ("cpu-20m", "mhc-20m", 1),
    ("cpu-tiny", "plain-tiny", 2),
    ("cpu-tiny", "mhc-tiny", 1),
    ("cpu-20m", "mhc-20m", 2),
    ("cpu-20m", "plain-20m", 1),
)
STEPS, WARM_UP, TOKENS, AIM = 12, 3, 4096, 0.15


def main() -> None:
    """Measure the cases in turn and write the result file after each."""
    parser = argparse.ArgumentParser(description="Plans beside real runs.")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--cases", type=int, default=len(CASES))
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    with open_session(compose("pretrain").cluster):
        for case in CASES[: arguments.cases]:
            found.append(_case(arguments.corpus, *case))
            print(found[-1], flush=True)
            print(write_result("plan", _figures(found), extra={"cases": found}), flush=True)


def _figures(found: list[dict[str, Any]]) -> dict[str, Figure]:
    figures = {
        f"plan_{kind}_error": Figure(max(case[f"{kind}_error"] for case in found), "share", "lower", aim=AIM)
        for kind in ("memory", "step_time")
    }
    for case in found:
        name = f"{case['model'].replace('-', '_')}_{case['workers']}"
        figures |= {
            f"plan_{kind}_error_{name}": Figure(case[f"{kind}_error"], "share", "lower")
            for kind in ("memory", "step_time")
        }
    return figures


def _case(corpus: Path, recipe: str, model: str, workers: int) -> dict[str, Any]:
    words = [f"recipe={recipe}", f"model={model}", f"cluster.workers={workers}", f"train.steps={STEPS}"]
    words += [f"train.batch_tokens={TOKENS}", "compute.dtype=bfloat16", "validation.rows=0"]
    words += [
        "track.mixing_every=0",
        "track.mlflow.enabled=false",
        "track.progress=off",
        "checkpoints.every=1000",
    ]
    settings = compose("pretrain", words, None, {"corpus": str(corpus)})
    planned = planned_run(build(Plan, to_dict(settings)))
    with tempfile.TemporaryDirectory() as runs:
        bytes_held, seconds = _run(replace(settings, runs=runs, name="measured"))
    return {
        "model": model,
        "workers": workers,
        "planned_bytes": planned.chosen.total,
        "bytes": bytes_held,
        "memory_error": abs(planned.chosen.total / bytes_held - 1),
        "planned_seconds": planned.step.total,
        "seconds": seconds,
        "step_time_error": abs(planned.step.total / seconds - 1),
        "parts": planned.step.parts | {"update": planned.step.update},
        "process_bytes": planned.chosen.process,
        "heap": planned.chosen.heap,
    }


def _run(settings: Pretrain) -> tuple[float, float]:
    """Run and return the most bytes of any worker, and the median seconds of a step."""
    folder, held, done = Path(settings.runs) / str(settings.name), [0.0], threading.Event()

    def watch() -> None:
        reader, workers = MessageReader(folder / "attempts" / "1"), set()
        while not done.wait(0.05):
            workers |= {item["pid"] for item in reader.new() if item["kind"] == "worker"}
            rows = read_metrics(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
            if len(rows) >= STEPS:
                return  # what comes then is the export of the model
            held[0] = max([held[0], *(high_water(pid) for pid in workers)])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        pretrain(settings)
    finally:
        done.set()
        thread.join()
    ends = [float(row["time"] or 0) for row in read_metrics(folder / "metrics.jsonl")]
    gaps = [after - before for before, after in zip(ends[WARM_UP:], ends[WARM_UP + 1 :], strict=False)]
    return held[0], statistics.median(gaps)


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"{time.monotonic() - started:.0f} s")
