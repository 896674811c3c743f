"""The fault table on a cluster: nodes, links and heads that go, and nodes that say so before they do."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from codex_ray.cluster.local import up
from codex_ray.cluster.local_cluster import LocalCluster
from codex_ray.cluster.processes import MARK, find
from codex_ray.config.cluster import ClusterUp
from codex_ray.config.common import Cluster
from codex_ray.config.saved import save
from codex_ray.config.train import Pretrain
from codex_ray.errors import CodexRayError
from codex_ray.files import read_json
from codex_ray.train.messages import MessageReader
from tests.cluster.clients import ROOT, environment, states
from tests.faults import Fault, Table, fail_at, save_table
from tests.integration.training import LENGTH, assert_same_end, run_settings
from tests.unit.corpus.corpora import make_corpus

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
# Three of a node's four CPUs per worker: each node has room for one. No failure is allowed but those told of.
PLACED = Cluster(workers=2, cpus_per_worker=3.0, threads_per_worker=1, max_failures=1)


@contextlib.contextmanager
def nodes(count: int) -> Iterator[LocalCluster]:
    """A cluster whose workers find the tests, and that leaves no process."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv("PYTHONPATH", str(ROOT))
        with up(ClusterUp(folder=f"{folder}/cluster", nodes=count, cpus_per_node=4)) as cluster:
            yield cluster
        assert find(cluster.state.mark()) == []


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with nodes(3) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "corpus"
    make_corpus(folder, length=LENGTH, row_group_rows=16, rows=200, held_out=16)
    return folder


class Driver:
    """A pretrain that is run as a client of the cluster, with the faults of a table."""

    def __init__(self, cluster: LocalCluster, settings: Pretrain, folder: Path, *faults: Fault) -> None:
        folder.mkdir(exist_ok=True)
        self.run = Path(settings.runs) / str(settings.name)
        number = len(list(folder.glob("table*")))
        self.table: Table = fail_at(folder / f"table{number}", *faults)
        save(settings, folder / "run.yaml")
        self.log = folder / f"log{number}"
        words = ["-m", "tests.faults", str(save_table(self.table, folder / "table.json"))]
        words += ["pretrain", "--config", str(folder / "run.yaml")]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*cluster.entering(0), sys.executable, *words],
                cwd=ROOT,
                env=environment(cluster),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._cluster = cluster

    def told(self, kind: str) -> list[dict[str, object]]:
        """What the workers and the controller have told, of one kind."""
        starts = sorted(self.run.glob("attempts/*"))
        return [item for start in starts for item in MessageReader(start).new() if item["kind"] == kind]

    def node_of_a_worker(self) -> int:
        """A node, not the head, that hosts one of the two workers that run now."""
        marks = [psutil.Process(item["pid"]).environ()[MARK] for item in self.told("worker")[-2:]]  # type: ignore[arg-type]
        return next(
            node.index for node in self._cluster.nodes[1:] if self._cluster.state.mark(node.index) in marks
        )

    def completes(self, seconds: float = 400) -> dict[str, float]:
        """Wait for its end; returns its figures and says what the faults cost."""
        try:
            assert self.process.wait(seconds) == 0, self.log.read_text()[-3000:]
        finally:
            self.process.kill()
        figures: dict[str, float] = read_json(self.run / "summary.json", "summary")
        costs = {name: round(figures.get(name, 0.0), 3) for name in COSTS}
        print(f"{self.run.name}: {costs}")
        return figures


COSTS = ("recoveries", "recovery_seconds", "effective_time_ratio")


@pytest.fixture(scope="module")
def undisturbed(cluster: LocalCluster, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    driver = Driver(cluster, run_settings(corpus, folder, "undisturbed", cluster=PLACED), folder)
    assert driver.completes()["recoveries"] == 0
    return driver.run


@pytest.mark.parametrize("told_by", ["Ray", "command"])
def test_a_node_that_is_about_to_be_taken_away_is_left_in_time(
    told_by: str, cluster: LocalCluster, undisturbed: Path, corpus: Path, tmp_path: Path
) -> None:
    """The checkpoint is of the very step, no step is done twice, and no failure is counted."""
    while states(cluster).count("alive") < 3:
        cluster.add_node()
    notice = tmp_path / "notice"
    command = f'test -e "{notice}" && grep -qx "${MARK}" "{notice}"' if told_by == "command" else None
    settings = run_settings(
        corpus, tmp_path, "left", cluster=replace(PLACED, max_failures=0, preemption_command=command)
    )
    # Without an end to the wait, the run would be over before the notice is there.
    driver = Driver(cluster, settings, tmp_path / "files", Fault(1, 6, "backward", "wait"))
    driver.table.wait_for(0)
    node = driver.node_of_a_worker()
    began = time.time()
    if told_by == "command":
        notice.write_text(cluster.state.mark(node) + "\n")
    else:
        drain(cluster, node, 30)
    time.sleep(8)  # as a long step would take
    driver.table.go()
    figures = driver.completes()
    cluster.kill_node(node)
    notes = [str(item["text"]) for item in driver.told("note")]
    assert any("is about to be taken away: the checkpoint of step 6 is written" in note for note in notes)
    (left,) = driver.told("leaving")
    begun = driver.told("begin")
    assert [item["step"] for item in begun] == [0, 6]
    seconds = [float(str(item["time"])) - began for item in (left, begun[1])]
    print(
        f"{seconds[0]:.1f} s after the notice the checkpoint was there, after {seconds[1]:.1f} s it went on"
    )
    assert figures["recoveries"] == 1
    assert_same_end(driver.run, undisturbed)


def drain(cluster: LocalCluster, node: int, seconds: int) -> None:
    """Tell Ray, as a cluster manager does, that a node will be taken away."""
    program = "import ray; ray.init(); print(next(n['NodeID'] for n in ray.nodes() if n['NodeName'] == '{}'))"
    inside, variables = cluster.entering(0), environment(cluster)
    name = cluster.nodes[node].name
    found = subprocess.run(
        [*inside, sys.executable, "-c", program.format(name)],
        env=variables, capture_output=True, text=True, timeout=120, check=True,
    ).stdout.split()[-1]  # fmt: skip
    words = ["drain-node", "--address", cluster.state.gcs, "--node-id", found]
    words += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test"]
    words += ["--deadline-remaining-seconds", str(seconds)]
    subprocess.run(
        [*inside, sys.executable, "-m", "ray.scripts.scripts", *words],
        env=variables, timeout=120, check=True,
    )  # fmt: skip


def kill_raylet(cluster: LocalCluster, node: int) -> None:
    """End the process that speaks for a node, and wait for its workers to find out and end.

    A short run could else be over before they do, and rightly so.
    """
    (raylet,) = [each for each in find(cluster.state.mark(node)) if each.name() == "raylet"]
    workers = [each for each in find(cluster.state.mark(node)) if each.name().startswith("ray::")]
    raylet.kill()
    _, left = psutil.wait_procs(workers, timeout=60)
    assert workers and not left, [each.cmdline() for each in left]


def cut_for_a_moment(cluster: LocalCluster, node: int) -> None:
    cluster.cut_node(node)
    time.sleep(4)
    cluster.heal_node(node)


STRIKES: dict[str, tuple[Callable[[LocalCluster, int], None], int]] = {
    "node": (LocalCluster.kill_node, 1),
    "raylet": (kill_raylet, 1),
    "link for a moment": (cut_for_a_moment, 0),
    "link": (LocalCluster.cut_node, 1),
}


@pytest.mark.parametrize("what", STRIKES)
def test_what_is_lost_of_a_cluster_costs_seconds_and_changes_nothing(
    what: str, cluster: LocalCluster, undisturbed: Path, corpus: Path, tmp_path: Path
) -> None:
    strike, recoveries = STRIKES[what]
    if "link" in what and cluster.state.isolation == "processes":
        with pytest.raises(CodexRayError, match="share one network"):
            cluster.cut_node(1)
        return
    while states(cluster).count("alive") < 3:
        cluster.add_node()
    settings = run_settings(corpus, tmp_path, "struck", cluster=PLACED)
    driver = Driver(cluster, settings, tmp_path / "files", Fault(1, 6, "backward", "wait"))
    driver.table.wait_for(0)
    node = driver.node_of_a_worker()
    strike(cluster, node)
    driver.table.go()
    figures = driver.completes()
    if what == "link":
        cluster.heal_node(node)
    assert figures["recoveries"] == recoveries, driver.log.read_text()
    assert_same_end(driver.run, undisturbed)


def test_a_lost_head_ends_the_run_and_another_cluster_completes_it(
    undisturbed: Path, corpus: Path, tmp_path: Path
) -> None:
    settings = run_settings(corpus, tmp_path, "head", cluster=PLACED)
    with nodes(2) as first:
        driver = Driver(first, settings, tmp_path / "files", Fault(1, 6, "backward", "wait"))
        driver.table.wait_for(0)
        (head,) = [each for each in find(first.state.mark(0)) if each.name() == "gcs_server"]
        head.kill()
        assert driver.process.wait(120) == 1, driver.log.read_text()
        last = driver.log.read_text().strip().splitlines()[-1]
        assert "the cluster's head at" in last and "run the same command with resume=auto" in last
        driver.table.go()
    with nodes(2) as second:
        Driver(second, settings, tmp_path / "files").completes()
    assert_same_end(driver.run, undisturbed)
