"""A whole life on three nodes, each stage a job from outside, a node killed in each; the dashboard shown.

CODEX_RAY_SCREENSHOTS=FOLDER keeps the pictures, as docs/_static has them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from codex_ray.cluster.local import up
from codex_ray.cluster.local_cluster import LocalCluster
from codex_ray.cluster.ray_node import free_ports
from codex_ray.config.cluster import ClusterUp
from codex_ray.corpus.manifest import Manifest
from codex_ray.discover.problems.arithmetic import LONGEST
from codex_ray.runs.lineage import ancestry, walk
from codex_ray.track.metrics import read_metrics
from tests.browser import browser
from tests.cluster.clients import ROOT, environment, python
from tests.cluster.test_prepare_on_a_cluster import processes

pytestmark = [pytest.mark.cluster, pytest.mark.verify, pytest.mark.timeout(1500)]
WAIT_SECONDS = 400.0

STEPS = ["train.steps=100", "train.batch_tokens=256", "checkpoints.every=10", "validation.every=0"]
TWO = ["cluster.workers=2", "cluster.cpus_per_worker=2", "cluster.placement=strict_spread"]
QUIET = ["compute.dtype=float32", "track.report=false", "track.system_seconds=0", "track.progress=plain"]


class Life:
    """The cluster, and the folder that all nodes share."""

    def __init__(self, cluster: LocalCluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.shots = Path(os.environ.get("CODEX_RAY_SCREENSHOTS", folder))

    def verb(self, *words: str) -> str:
        done = python(self.cluster, "-m", "codex_ray", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, name: str, *words: str) -> Job:
        return Job(self, name, words)

    def kill_a_node_with(self, kind: str, job: Job) -> None:
        """Kill a worker node on which a process of this kind runs."""

        def victim() -> int | None:
            for node in self.cluster.nodes[1:]:
                if (
                    node.process is not None
                    and node.process.alive()
                    and processes(
                        self.cluster, node.index, lambda command: "".join(command[:1]).startswith(kind)
                    )
                ):
                    return node.index
            return None

        self.cluster.kill_node(job.wait_for(victim, f"{kind} on a worker node"))

    def asked(self, path: str) -> Any:
        """Return what the dashboard answers."""
        token = self.cluster.folder.read_token()
        request = urllib.request.Request(
            self.cluster.state.dashboard + path, headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def picture(self, page: str, text: str, kept: str = "", height: int = 800) -> None:
        """Open a page of Ray's dashboard in Chromium, with the token, and keep what it shows."""
        path = self.shots / f"dashboard_{kept or page}.png"
        token = self.cluster.folder.read_token()
        with browser() as shown:
            shown.call("Network.setExtraHTTPHeaders", headers={"Authorization": f"Bearer {token}"})
            shown.size(1360, height)
            shown.open(f"{self.cluster.state.dashboard}/#/{page}")
            shown.wait(f"document.body.innerText.includes({json.dumps(text)})", 120)
            time.sleep(2)  # what else is on the page
            shown.screenshot(path)
        assert path.stat().st_size > 10_000


class Job:
    """A verb that another machine has submitted; its log goes to a file."""

    def __init__(self, life: Life, name: str, words: tuple[str, ...]) -> None:
        self.log = life.folder / f"{name}.log"
        submit = ["--submit", life.cluster.state.dashboard]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "codex_ray", *words, *submit],
                cwd=ROOT, env=environment(life.cluster), stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + WAIT_SECONDS
        while not (found := condition()):
            assert self.process.poll() is None, f"ended before {what}: {self.log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"{what} never came: {self.log.read_text()[-3000:]}"
            time.sleep(0.1)
        return found

    @property
    def identity(self) -> str:
        found = re.search(r"job (\w+) runs at", self.log.read_text())
        assert found, self.log.read_text()
        return found[1]

    def ends_well(self) -> None:
        assert self.process.wait(WAIT_SECONDS) == 0, self.log.read_text()[-3000:]


def write_data(folder: Path) -> None:
    """Write text and rows; both have expressions in them, which the search is to write."""
    text = folder / "text"
    text.mkdir()
    random = np.random.default_rng(5)
    expressions = [f"{one}{sign}{two}" for one in range(1, 10) for sign in "+-*/" for two in range(1, 10)]
    words = np.array([*expressions, *("".join(random.choice(list("aeioustrnlm "), 7)) for _ in range(1500))])
    for number in range(16):
        lines = random.choice(words, (5000, 10)).tolist()
        (text / f"{number:02d}.txt").write_text("\n".join(" ".join(line) + "." for line in lines))
    rows = [
        {"prompt": f"closer to pi than {number} in {LONGEST} characters:", "response": str(expression)}
        for number, expression in enumerate(random.choice(expressions, 400))
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@contextmanager
def three_nodes() -> Iterator[LocalCluster]:
    """Start the cluster for the length of the block; Ray's paths must be short, so its folder is its own."""
    with (
        tempfile.TemporaryDirectory() as place,
        up(ClusterUp(folder=f"{place}/cluster", nodes=3, timeout_seconds=WAIT_SECONDS)) as cluster,
    ):
        yield cluster


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    folder = tmp_path_factory.mktemp("life")
    write_data(folder)
    with three_nodes() as cluster:
        yield Life(cluster, folder)


def steps_of(run: Path) -> list[Any]:
    path = run / "metrics.jsonl"
    return [row["step"] for row in read_metrics(path)] if path.exists() else []


def test_prepare(life: Life) -> None:
    output = life.folder / "corpus"
    words = ["prepare", str(life.folder / "text"), f"output={output}", "workers=4", "clean=web"]
    words += ["clean.languages=[]", "clean.gopher_quality=false", "clean.c4=false", "clean.fineweb=false"]
    words += ["clean.max_bytes=4000000", "duplicates.near=true", "pack.sequence_length=64"]
    words += ["tokenizer.vocabulary_size=600", "split.validation=0.3"]
    job = life.submit("prepare", *words)
    life.kill_a_node_with("ray::MapBatches", job)
    life.cluster.add_node()
    if job.process.wait(WAIT_SECONDS):  # one sentence, what was done stays, and it goes on
        assert "Traceback" not in job.log.read_text() and not output.exists()
        life.submit("prepare-again", *words).ends_well()
    Manifest.load(output).verify(deep=True)


def test_pretrain(life: Life) -> None:
    runs = life.folder / "runs"
    job = life.submit(
        "pretrain", "pretrain", str(life.folder / "corpus"), f"runs={runs}", "name=first",
        "model=plain-tiny", "model.layers=1", *STEPS, *TWO, *QUIET,
    )  # fmt: skip
    job.wait_for(lambda: len(steps_of(runs / "first")) > 12, "step 13")
    life.kill_a_node_with("ray::RayTrainWorker", job)
    life.cluster.add_node()
    job.ends_well()
    assert steps_of(runs / "first") == list(range(1, 101))
    assert "resumed from step 10" in job.log.read_text()
    shown = life.asked("/api/train/v2/runs/v1")["train_runs"]
    assert ("first", "FINISHED", 2) in [(one["name"], one["status"], len(one["attempts"])) for one in shown]
    life.picture(f"jobs/{job.identity}", "resumed from step 10", "train", 1250)


def test_finetune(life: Life) -> None:
    runs = life.folder / "runs"
    job = life.submit(
        "finetune", "finetune", f"{runs}/first", f"runs={runs}", "name=tuned",
        f"data.path={life.folder}/rows.jsonl", "optimizer.learning_rate=5e-3", *STEPS, *TWO, *QUIET,
    )  # fmt: skip
    job.wait_for(lambda: len(steps_of(runs / "tuned")) > 12, "step 13")
    life.kill_a_node_with("ray::RayTrainWorker", job)
    life.cluster.add_node()
    job.ends_well()
    assert steps_of(runs / "tuned") == list(range(1, 101))


def test_discover(life: Life) -> None:
    runs = life.folder / "runs"
    job = life.submit(
        "discover", "discover", "arithmetic", f"model={runs}/tuned", f"runs={runs}", "name=search",
        "train.steps=40", "checkpoints.every=1", "search.groups=2", "search.samples=8",
        "rollout.actors=3", "rollout.max_new_tokens=12", "validation.every=0",
        "optimizer.learning_rate=1e-3", *TWO, *QUIET,
    )  # fmt: skip
    job.wait_for(lambda: len(steps_of(runs / "search")) > 1, "the second step")
    life.kill_a_node_with("ray::SamplingActor", job)
    life.picture("actors", "SamplingActor", height=1250)
    life.cluster.add_node()
    job.ends_well()
    assert steps_of(runs / "search") == list(range(1, 41))
    assert max(row["discover/valid_share"] for row in read_metrics(runs / "search" / "metrics.jsonl")) > 0
    life.verb("discover", "verify", f"{runs}/search/solution.json")


def test_evaluate(life: Life) -> None:
    runs, output = life.folder / "runs", life.folder / "measured"
    job = life.submit(
        "evaluate", "evaluate", f"{runs}/tuned", f"tasks=[{life.folder}/rows.jsonl]", f"output={output}",
        "spread.actors=3", "compute.dtype=float32", "rows.answering.max_new_tokens=20",
    )  # fmt: skip
    life.kill_a_node_with("ray::MapWorker", job)
    life.cluster.add_node()
    job.ends_well()
    assert json.loads((output / "evaluation.json").read_text())


def test_serve(life: Life) -> None:
    model = life.folder / "runs" / "tuned"
    (port,) = free_ports(1)
    job = life.submit(
        "serve", "serve", str(model), f"port={port}", "replicas.min=2", "replicas.max=2",
        "replicas.cpus=3", "compute.dtype=float32",
    )  # fmt: skip
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=60)

    def answer() -> str | None:
        try:
            return client.completions.create(model="tuned", prompt="1 and", max_tokens=4).choices[0].text
        except openai.OpenAIError:
            return None

    job.wait_for(lambda: answer() is not None, "an answer")
    life.kill_a_node_with("ray::ServeReplica:codex_ray:model", job)
    life.cluster.add_node()
    job.wait_for(lambda: answer() is not None, "an answer after a node was lost")
    shown = "/api/serve/applications/"
    job.wait_for(
        lambda: life.asked(shown)["applications"]["codex_ray"]["status"] == "RUNNING", "another replica"
    )
    life.picture("serve", "codex_ray")
    life.picture("jobs", "finetune tuned", height=1500)
    assert life.verb("lineage", f"http://127.0.0.1:{port}").count("model ") >= 2
    life.verb("jobs", "stop", job.identity, f"address={life.cluster.state.dashboard}")
    job.process.wait(WAIT_SECONDS)
    assert answer() is None


def test_what_was_made_goes_back_to_the_text(life: Life) -> None:
    kinds = [one.kind for one in walk(ancestry(str(life.folder / "runs" / "search"), deep=True))]
    assert kinds.count("run") == 3 and {"corpus", "source"} <= set(kinds)
