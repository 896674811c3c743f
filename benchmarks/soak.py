"""A run of 500 steps that loses a worker or a node every 20 to 40 seconds, beside one that nothing disturbs.

    python -m benchmarks.soak

Three Ray nodes on this machine, two workers, each on its own node. A draw decides when the next one goes and
which: one of the workers' processes, or the raylet of a worker's node, for which a new node then joins. Both
runs must end with the same weights, bit for bit, and the same batch at each step; the driver's memory, the
processes and the files must be no more at the end than they were.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from safetensors.torch import load_file
from torch import equal

from benchmarks.results import Figure, write_result
from codex_ray.cluster.local import up
from codex_ray.cluster.local_cluster import LocalCluster
from codex_ray.cluster.processes import MARK, find
from codex_ray.config.cluster import ClusterUp
from codex_ray.config.compose import compose
from codex_ray.config.saved import save
from codex_ray.config.train import Pretrain
from codex_ray.corpus.prepare import prepare
from codex_ray.files import read_json
from codex_ray.track.metrics import read_metrics
from codex_ray.train.messages import MessageReader

STEPS, EVERY_SECONDS, SEED = 500, (20.0, 40.0), 1
RUN_SECONDS, POLL_SECONDS, LOOKS_PER_COUNT = 3600.0, 0.5, 20
SHAPE = ["model.hidden_size=192", "model.intermediate_size=512", "model.layers=4", "model.heads=4"]
SHAPE += ["model.key_value_heads=4", "model.head_size=48", "model.residual.streams=2"]
PLACED = {"workers": 2, "cpus_per_worker": 3.0, "threads_per_worker": 1, "max_failures": 10}


@dataclass
class Watched:
    """What was done to a run and seen of it."""

    struck: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    processes: list[float] = field(default_factory=list)


def main() -> None:
    """Run both, compare them and write the result file."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--steps", type=int, default=STEPS)
    words.add_argument("--seed", type=int, default=SEED)
    given = words.parse_args()
    figures, extra = soak(given.steps, given.seed)
    for name, figure in figures.items():
        print(f"{name}: {figure.value:g} {figure.unit}")
    print(write_result("soak", figures, extra))


def soak(steps: int, seed: int) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Return the figures of a soak, and facts to keep beside them.

    Raises:
        AssertionError: the disturbed run did not end as the other.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = _settings(Path(folder), steps)
        calm, _ = _run(settings, "calm", Path(folder), None)
        disturbed, watched = _run(settings, "disturbed", Path(folder), random.Random(seed))
        _assert_same_end(disturbed, calm)
        kept = len(list((disturbed / "checkpoints").glob("*step_*")))
        summary = read_json(disturbed / "summary.json", "summary")
        calm_summary = read_json(calm / "summary.json", "summary")
    figures = {
        "soak_steps": Figure(steps, "steps", "higher"),
        "soak_kills": Figure(len(watched.struck), "kills", "higher"),
        "soak_recoveries": Figure(summary["recoveries"], "recoveries", "higher"),
        "recovery_seconds": Figure(summary["recovery_seconds"], "s", "lower"),
        "effective_time_ratio": Figure(summary["effective_time_ratio"], "share", "higher"),
        "calm_effective_time_ratio": Figure(calm_summary["effective_time_ratio"], "share", "higher"),
        "soak_differing_weights": Figure(0, "tensors", "lower", aim=0),
        "soak_driver_growth_mib": Figure(_growth(watched.memory) / 2**20, "MiB", "lower", aim=64),
        "soak_processes_growth": Figure(_growth(watched.processes), "processes", "lower", aim=6),
        "soak_checkpoints_left": Figure(kept, "folders", "lower", aim=settings.checkpoints.keep_last + 1),
    }
    extra = {
        "wall_seconds": summary["wall_seconds"],
        "calm_wall_seconds": calm_summary["wall_seconds"],
        "struck": dict(Counter(watched.struck)),
        "seed": seed,
    }
    return figures, extra


def _growth(seen: list[float]) -> float:
    """How much the most of the last quarter is over the most of the second."""
    quarter = max(1, len(seen) // 4)
    return max(seen[-quarter:]) - max(seen[quarter : 2 * quarter] or seen)


def _settings(folder: Path, steps: int) -> Pretrain:
    """Steps of some tenths of a second, and a checkpoint every few seconds."""
    quiet = {"progress": "off", "report": False, "mlflow": {"enabled": False}, "mixing_every": 0}
    corpus, text = folder / "corpus", Path(os.__file__).parent / "asyncio"
    words = [f"text={text}", "tokenizer.vocabulary_size=512", "pack.sequence_length=128"]
    words += ["split.validation=0.2", "split.test=0.0"]
    prepare(compose("prepare", words, values={"output": str(corpus), "track": quiet}))
    words = [*SHAPE, f"train.steps={steps}", "train.batch_tokens=2048", "compute.dtype=float32"]
    words += ["compute.device=cpu", "checkpoints.every=10", "validation.every=100", "validation.rows=32"]
    values = {
        "corpus": str(corpus),
        "runs": str(folder),
        "track": quiet,
        "cluster": PLACED,
        "stream": "direct",
    }
    made: Pretrain = compose("pretrain", words, values=values)
    return made


def _run(settings: Pretrain, name: str, folder: Path, draw: random.Random | None) -> tuple[Path, Watched]:
    """Run on a cluster of its own, disturbed if there is a draw; nothing of it may be left."""
    before, temporary = _shared_memory(), folder / f"{name}.temporary"
    temporary.mkdir()
    with up(ClusterUp(folder=str(folder / f"{name}.cluster"), nodes=3, cpus_per_node=4)) as cluster:
        file, log = folder / f"{name}.yaml", folder / f"{name}.log"
        save(settings, file)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        command = [sys.executable, "-m", "codex_ray", "pretrain", "--config", str(file), f"name={name}"]
        with log.open("w") as stream:
            driver = subprocess.Popen(
                [*cluster.entering(0), *command],
                env={**kept, **cluster.variables, "TMPDIR": str(temporary)},
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        try:
            watched = _watch(cluster, driver, folder / name, draw)
        finally:
            driver.kill()
        assert driver.returncode == 0, log.read_text()[-3000:]
        mark = cluster.state.mark()
    assert not find(mark), "processes of the cluster are left"
    made = {path.name for path in temporary.iterdir() if not path.name.startswith("torchinductor")}  # a cache
    left = sorted(made | (_shared_memory() - before))
    assert not left, f"files are left: {left}"
    return folder / name, watched


def _watch(
    cluster: LocalCluster, driver: subprocess.Popen[bytes], run: Path, draw: random.Random | None
) -> Watched:
    """Follow a run to its end, and strike from its first steps on."""
    watched, deadline = Watched(), time.monotonic() + RUN_SECONDS
    next_strike, struck_at = None, 0.0
    while driver.poll() is None:
        if time.monotonic() > deadline:
            raise AssertionError(f"the run did not end in {RUN_SECONDS:g} s")
        time.sleep(POLL_SECONDS)
        if not (run / "metrics.jsonl").exists():
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            watched.memory.append(_driver_memory(driver.pid))
        if len(watched.memory) % LOOKS_PER_COUNT == 1:
            watched.processes.append(len(find(cluster.state.mark())))
        if draw is None:
            continue
        if next_strike is None:
            next_strike = time.monotonic() + draw.uniform(*EVERY_SECONDS)
        # On a slow machine the next comes later: a run that is never let step cannot end.
        if time.monotonic() > next_strike and _last_time(run) > struck_at + 1.0:
            struck = None
            with contextlib.suppress(psutil.NoSuchProcess):  # the workers of before are just ending
                struck = _strike(cluster, run, draw)
            if struck:
                watched.struck.append(struck)
                next_strike, struck_at = time.monotonic() + draw.uniform(*EVERY_SECONDS), time.time()
                print(f"step {_step(run)}: {struck} was killed", flush=True)
    return watched


def _driver_memory(pid: int) -> float:
    """Resident bytes of the driver, which may run inside a namespace's helper."""
    process = psutil.Process(pid)
    return float(max(each.memory_info().rss for each in [process, *process.children()]))


def _step(run: Path) -> int:
    rows = read_metrics(run / "metrics.jsonl")
    return int(rows[-1]["step"] or 0) if rows else 0


def _last_time(run: Path) -> float:
    rows = read_metrics(run / "metrics.jsonl")
    return float(rows[-1]["time"] or 0.0) if rows else 0.0


def _strike(cluster: LocalCluster, run: Path, draw: random.Random) -> str | None:
    """Kill a worker, or the raylet of a worker's node; None where the workers are not up."""
    told = [item for item in MessageReader(run / "attempts" / "1").new() if item["kind"] == "worker"]
    workers = [psutil.Process(item["pid"]) for item in told[-2:] if psutil.pid_exists(item["pid"])]
    if len(workers) < 2:
        return None
    worker = draw.choice(workers)
    kind = draw.choice(["a worker", "a node"])
    mark = worker.environ()[MARK]
    node = next(node for node in cluster.nodes if cluster.state.mark(node.index) == mark)
    if kind == "a worker" or node.index == 0:
        worker.kill()
        return "a worker"
    for process in find(mark):
        if process.name() == "raylet":
            process.kill()
    cluster.add_node()
    cluster.kill_node(node.index)  # what the raylet has left of it
    return kind


def _shared_memory() -> set[str]:
    """What lies in shared memory under a name."""
    return {path.name for path in Path("/dev/shm").iterdir()}


def _assert_same_end(run: Path, other: Path) -> None:
    ours, theirs = (load_file(each / "model" / "model.safetensors") for each in (run, other))
    assert ours.keys() == theirs.keys()
    differing = [name for name in ours if not equal(ours[name], theirs[name])]
    assert not differing, f"weights differ: {differing}"
    rows = [
        [(row["step"], row["batch"], row["loss"]) for row in read_metrics(each / "metrics.jsonl")]
        for each in (run, other)
    ]
    assert rows[0] == rows[1], "the steps differ"
    assert [step for step, *_ in rows[0]] == list(range(1, len(rows[0]) + 1)), json.dumps(rows[0][-3:])


if __name__ == "__main__":
    main()
