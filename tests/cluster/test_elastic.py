"""A run that loses a node goes on with fewer workers, and takes more when there is room again."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from codex_ray.cluster.local import up
from codex_ray.cluster.local_cluster import LocalCluster
from codex_ray.config.cluster import ClusterUp
from codex_ray.config.common import Cluster
from codex_ray.config.model import Model, Residual
from codex_ray.config.saved import save
from codex_ray.config.train import Checkpoints, Optimizer, Pretrain, Training, Validation
from codex_ray.corpus.prepare import prepare
from codex_ray.track.metrics import read_metrics
from codex_ray.train.driver import pretrain
from tests.cluster.clients import ROOT, environment
from tests.integration.training import (
    LENGTH,
    batches,
    corpus_settings,
    losses,
    make_text,
    run_settings,
    weights,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
STEPS, ROWS = 240, 64


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with (
        tempfile.TemporaryDirectory() as folder,
        up(ClusterUp(folder=f"{folder}/cluster", cpus_per_node=4)) as cluster,
    ):
        yield cluster


def settings_of(corpus: Path, runs: Path, name: str, cluster: Cluster) -> Pretrain:
    """Steps of some tenths of a second, so that nodes can come and go within a run."""
    return run_settings(
        corpus,
        runs,
        name,
        model=Model(
            hidden_size=128,
            intermediate_size=256,
            layers=4,
            heads=4,
            key_value_heads=2,
            head_size=32,
            residual=Residual(kind="mhc", streams=2),
        ),
        optimizer=Optimizer(kind="adamw", learning_rate=1e-3),
        train=Training(steps=STEPS, batch_tokens=ROWS * LENGTH),
        checkpoints=Checkpoints(every=10),
        validation=Validation(every=0, rows=8),
        cluster=cluster,
    )


class Job:
    """A pretrain submitted to the cluster."""

    def __init__(self, cluster: LocalCluster, settings: Pretrain, folder: Path) -> None:
        self.run = Path(settings.runs) / str(settings.name)
        save(settings, folder / "run.yaml")
        self.log = folder / "log"
        words = ["pretrain", "--config", str(folder / "run.yaml"), "--submit", cluster.state.dashboard]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "codex_ray", *words],
                cwd=ROOT,
                env=environment(cluster),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def step(self) -> int:
        """The newest step that was recorded."""
        path = self.run / "metrics.jsonl"
        rows = read_metrics(path) if path.exists() else []
        return int(rows[-1]["step"] or 0) if rows else 0

    def notes(self) -> list[str]:
        """What the workers of all starts have told."""
        lines = [
            json.loads(line)
            for path in sorted(self.run.glob("attempts/*/messages.ndjson"))
            for line in path.read_text().splitlines()
        ]
        return [str(line["text"]) for line in lines if line["kind"] == "note"]

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float = 300) -> float:
        """Wait until something is true of the running job; returns after how many seconds it was."""
        began = time.monotonic()
        while not condition():
            assert self.process.poll() is None, f"ended before {what}: {self.log.read_text()[-3000:]}"
            assert time.monotonic() < began + seconds, f"{what} never came: {self.log.read_text()[-3000:]}"
            time.sleep(0.1)
        return time.monotonic() - began


def test_a_lost_node_costs_seconds_and_a_new_one_is_taken(cluster: LocalCluster, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    prepare(corpus_settings(make_text(tmp_path / "text"), corpus))
    elastic = Cluster(
        workers=2, min_workers=1, cpus_per_worker=3.0, threads_per_worker=1, grow_every_seconds=5.0
    )
    job = Job(cluster, settings_of(corpus, tmp_path / "runs", "elastic", elastic), tmp_path)
    job.wait_for(lambda: job.step() >= 30, "step 30")
    cluster.kill_node(1)
    fewer = job.wait_for(lambda: any("by 2 workers" in note for note in job.notes()), "one worker")
    job.wait_for(lambda: job.step() >= 60, "step 60")
    cluster.add_node()
    more = job.wait_for(lambda: any("by 1 workers" in note for note in job.notes()), "two workers")
    assert job.process.wait(600) == 0, job.log.read_text()
    print(f"one worker went on after {fewer:.0f} s, two after {more:.0f} s")

    alone = Cluster(workers=1, threads_per_worker=1, logical_cpus=8)
    undisturbed = settings_of(corpus, tmp_path / "runs", "undisturbed", alone)
    expected = pretrain(replace(undisturbed, resume="never")).run
    assert batches(job.run) == batches(expected)
    assert [step for step, _ in batches(job.run)] == list(range(1, STEPS + 1))
    assert losses(job.run) == pytest.approx(losses(expected), rel=1e-4)
    for name, value in weights(expected).items():
        assert (weights(job.run)[name] - value).norm() <= 1e-3 * value.norm() + 1e-6, name
