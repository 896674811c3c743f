"""The whole stack beside other ways to run the same training: same model, rows, batch, precision, threads.

    pip install --target PEERS --no-deps lightning-fabric lightning-utilities
    python -m benchmarks.stack --peers PEERS [--steps N] [--turns N]

The stack is ``pretrain`` as a user starts it: Ray Data's stream, Ray Train, DeepSpeed, metrics, MLflow.
Beside it run a DistributedDataParallel loop with its data in memory, a DeepSpeed loop likewise, Transformers'
Trainer, Lightning Fabric, and Ray Train's DeepSpeed example. Every run is fresh processes; they take turns,
and a figure is the median over turns of a ratio of tokens/s within a turn, each from the median time between
two steps' ends. In bf16, Fabric has fp32 weights and casts on the way (its mixed precision); all others have
bf16 weights and fp32 masters. All come to about the same loss, or the benchmark fails.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import Figure, write_result
from benchmarks.scale.memory import high_water
from benchmarks.stacks.job import LEARNING_RATE, LOGGED_STEPS, Job
from codex_ray.cluster.ray_node import free_ports
from codex_ray.config.compose import compose
from codex_ray.corpus.prepare import prepare
from codex_ray.track.metrics import read_metrics
from codex_ray.train.messages import MessageReader

ROOT = Path(__file__).resolve().parents[1]
LIMIT_SECONDS = 600.0
SAME_LOSS = 0.05  # relative: the order of rows differs between contestants
WORDS = [
    "recipe=quickstart",
    "optimizer=adamw",
    f"optimizer.learning_rate={LEARNING_RATE}",
    "schedule=constant",
    "schedule.warmup_steps=0",
    "train.seconds=null",
    "validation.rows=0",
    "track.progress=off",
]
# (ZeRO stage, precision, the loop that is the measure, the others)
COURSES = (
    (0, "float32", "ddp", ("trainer", "fabric")),
    (1, "bfloat16", "ddp", ("deepspeed", "trainer", "fabric", "ray_deepspeed")),
    (2, "bfloat16", "deepspeed", ("ray_deepspeed",)),
    (3, "bfloat16", "deepspeed", ("ray_deepspeed",)),
)


@dataclass(frozen=True)
class Outcome:
    """What one contestant's run gave."""

    tokens_per_second: float
    loss: float
    peak_bytes: int
    first_step_seconds: float


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(
        description="The whole stack beside other ways to run the same training."
    )
    parser.add_argument(
        "--peers", type=Path, required=True, help="folder that Lightning Fabric is installed in"
    )
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps, in tens")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[2, 1])
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(arguments.peers.resolve())])
    figures: dict[str, Figure] = {}
    turns: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name) / "corpus"
        prepare(compose("prepare", values={"output": str(corpus), "track": {"progress": "off"}}))
        for workers in arguments.workers:
            for stage, dtype, measure, others in COURSES:
                course = f"zero{stage}_{workers}w"
                jobs = _jobs(corpus, Path(name), stage, dtype, workers, arguments.steps, (measure, *others))
                turns[course] = [_turn(course, jobs) for _ in range(arguments.turns)]
                figures |= _figures(course, turns[course], measure)
    plain = {
        course: [{name: vars(one) for name, one in turn.items()} for turn in all_turns]
        for course, all_turns in turns.items()
    }
    print(write_result("stack", figures, extra={"turns": plain}))


def _jobs(
    corpus: Path, folder: Path, stage: int, dtype: str, workers: int, steps: int, peers: tuple[str, ...]
) -> list[Job]:
    words = [
        *WORDS,
        f"train.steps={steps}",
        f"deepspeed.stage={stage}",
        f"compute.dtype={dtype}",
        f"cluster.workers={workers}",
    ]
    return [
        Job(name, words, str(corpus), str(folder / f"{name}_{stage}_{workers}"), stage, dtype, workers, steps)
        for name in ("stack", *peers)
    ]


def _turn(course: str, jobs: list[Job]) -> dict[str, Outcome]:
    """Run every contestant once.

    Raises:
        SystemExit: they do not reach the same loss, so they did not train the same.
    """
    outcomes = {}
    for job in jobs:
        outcome = outcomes[job.contestant] = _run(job)
        print(
            f"{course} {job.contestant}: {outcome.tokens_per_second:,.0f} tokens/s, loss {outcome.loss:.3f}, "
            f"{outcome.peak_bytes / 1e6:,.0f} MB, first step after {outcome.first_step_seconds:.1f} s",
            flush=True,
        )
    for name, outcome in outcomes.items():
        if abs(outcome.loss / outcomes["stack"].loss - 1) > SAME_LOSS:
            raise SystemExit(f"{course}: {name} has loss {outcome.loss}, the stack {outcomes['stack'].loss}")
    return outcomes


def _figures(course: str, turns: list[dict[str, Outcome]], measure: str) -> dict[str, Figure]:
    figures = {}
    for peer in turns[0]:
        if peer == "stack":
            continue
        ratio = statistics.median(
            turn["stack"].tokens_per_second / turn[peer].tokens_per_second for turn in turns
        )
        aim = 0.97 if peer == measure else 1.0
        figures[f"stack_over_{_NAMES[peer]}_{course}"] = Figure(ratio, "ratio", "higher", aim)
    for name in turns[0]:
        each = [turn[name] for turn in turns]
        median = statistics.median(one.tokens_per_second for one in each)
        figures[f"{name}_tokens_per_second_{course}"] = Figure(median, "tokens/s", "higher")
        peak = statistics.median(one.peak_bytes for one in each)
        figures[f"{name}_peak_megabytes_{course}"] = Figure(peak / 1e6, "MB", "lower")
    starts = statistics.median(turn["stack"].first_step_seconds for turn in turns)
    figures[f"first_step_seconds_{course}"] = Figure(starts, "s", "lower", 20.0)
    return figures


_NAMES = {
    "ddp": "bare_loop",
    "deepspeed": "bare_deepspeed",
    "trainer": "hf_trainer",
    "fabric": "fabric",
    "ray_deepspeed": "ray_example",
}


def _run(job: Job) -> Outcome:
    output = Path(job.output)
    output.mkdir(parents=True, exist_ok=True)
    for old in output.glob("rank_*.json"):
        old.unlink()
    started = time.time()
    ranks = _stack(job) if job.contestant == "stack" else _peer(job)
    ends = ranks[0]["ends"]
    late = ends[len(ends) // 4 :]
    gap = statistics.median(after - before for before, after in itertools.pairwise(late))
    # Some tell their own rank's loss, some the mean over ranks, and the Trainer only each ten steps' mean.
    last = [rank["losses"][-LOGGED_STEPS:] for rank in ranks]
    losses = [loss for rank in last for loss in rank if not math.isnan(loss)]
    return Outcome(
        tokens_per_second=job.settings.train.batch_tokens / gap,
        loss=statistics.mean(losses),
        peak_bytes=max(rank["peak_bytes"] for rank in ranks),
        first_step_seconds=ends[0] - started,
    )


def _peer(job: Job) -> list[dict[str, Any]]:
    spec = Path(job.output) / "job.json"
    job.save(spec)
    port = free_ports(1)[0]
    launched = 1 if job.contestant == "ray_deepspeed" else job.workers
    with (Path(job.output) / "log").open("w") as log:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.stacks.run", str(spec), str(rank)],
                env=os.environ | (job.environment(rank, port) if launched == job.workers else {}),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            for rank in range(launched)
        ]
        try:
            failed = any(process.wait(LIMIT_SECONDS) for process in processes)
        finally:
            for process in processes:
                process.kill()
    if failed:
        raise SystemExit(f"{job.contestant} failed:\n{(Path(job.output) / 'log').read_text()[-3000:]}")
    return [json.loads((Path(job.output) / f"rank_{rank}.json").read_text()) for rank in range(job.workers)]


def _stack(job: Job) -> list[dict[str, Any]]:
    run = Path(job.output) / f"{time.time_ns()}"
    words = [*job.words, f"runs={run.parent}", f"name={run.name}"]
    with (Path(job.output) / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "codex_ray", "pretrain", job.corpus, *words],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        peaks: dict[int, int] = {}
        watcher = threading.Thread(target=_watch_memory, args=(process, run, peaks))
        watcher.start()
        try:
            failed = process.wait(LIMIT_SECONDS)
        finally:
            process.kill()
            watcher.join()
    if failed:
        raise SystemExit(f"the stack failed:\n{(Path(job.output) / 'log').read_text()[-3000:]}")
    rows = read_metrics(run / "metrics.jsonl")
    ends, losses = [row["time"] for row in rows], [row["loss"] for row in rows]
    return [{"ends": ends, "losses": losses, "peak_bytes": peak} for peak in peaks.values()]


def _watch_memory(process: subprocess.Popen[Any], run: Path, peaks: dict[int, int]) -> None:
    """Keep the most memory that each worker has held, as the kernel counts it."""
    messages = MessageReader(run / "attempts" / "1")
    while process.poll() is None:
        peaks |= {item["pid"]: 0 for item in messages.new() if item["kind"] == "worker"}
        for pid, peak in peaks.items():
            peaks[pid] = max(peak, high_water(pid))
        time.sleep(0.5)


if __name__ == "__main__":
    main()
