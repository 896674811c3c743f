"""A real cluster of two nodes on this machine: what it runs, what a lost node looks like, what it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from codex_ray.cluster.local import LocalCluster, up
from codex_ray.cluster.namespaces import unavailable
from codex_ray.cluster.processes import find
from codex_ray.config.cluster import ClusterUp
from codex_ray.config.saved import save
from codex_ray.errors import CodexRayError
from tests.integration.training import (
    STEPS,
    batches,
    corpus_settings,
    make_text,
    run_settings,
    weights,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
WHO = """
import ray
ray.init(log_to_driver=False, logging_level="ERROR")

@ray.remote(num_cpus=3)
def who():
    import os, socket, time
    from codex_ray.cluster.network import interface_of
    time.sleep(1)
    address = ray.util.get_node_ip_address()
    names = sorted(name for _, name in socket.if_nameindex())
    return ray.get_runtime_context().get_node_id(), address, interface_of(address), names

for node, address, interface, names in ray.get([who.remote() for _ in range(2)]):
    print(node, address, interface, ",".join(names))
"""


def python(cluster: LocalCluster, *words: str, node: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python as a client of the cluster, on this machine's network or on a node's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [*([] if node is None else cluster.entering(node)), sys.executable, *words],
        cwd=ROOT,
        env={**kept, **cluster.variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def descendants(cluster: LocalCluster) -> list[psutil.Process]:
    """What the nodes' processes have started, found by parentage alone."""
    heads = [psutil.Process(node.process.pid) for node in cluster.nodes if node.process]
    return [each for head in heads for each in [head, *head.children(recursive=True)]]


def still_running(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def interfaces() -> set[str]:
    return set(psutil.net_if_addrs())


def states(cluster: LocalCluster) -> list[str]:
    return [status.state for status in cluster.status()]


def wait_for_states(cluster: LocalCluster, wanted: list[str], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while (found := states(cluster)) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Two nodes in whichever way this machine allows."""
    with tempfile.TemporaryDirectory() as folder:
        before = interfaces()
        with up(ClusterUp(folder=f"{folder}/cluster", cpus_per_node=4)) as cluster:
            everything = descendants(cluster)
            assert len(everything) > 8
            yield cluster
            everything += descendants(cluster)
        assert still_running(everything) == []
        assert find(cluster.state.mark()) == []
        assert interfaces() == before
        assert not Path(cluster.state.temporary).exists()
        assert list(Path(folder).iterdir()) == []


def test_tasks_run_on_nodes_that_differ(cluster):
    separate = cluster.state.isolation == "namespaces"
    done = python(cluster, "-c", WHO, node=0)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert len({node for node, *_ in rows}) == 2
    assert {interface for _, _, interface, _ in rows} == {node.interface for node in cluster.nodes}
    if separate:
        assert {address for _, address, *_ in rows} == {node.address for node in cluster.nodes}
        assert "eth0,lo" in {names for *_, names in rows}


def test_the_token_is_private_and_needed(cluster):
    assert cluster.folder.token.stat().st_mode & 0o777 == 0o600
    script = "import sys; from codex_ray.cluster.jobs import connect; connect(sys.argv[1]).list_jobs()"
    assert python(cluster, "-c", script, cluster.state.dashboard).returncode == 0
    cluster_token = cluster.folder.token.read_text()
    wrong = cluster.folder.path / "logs" / "wrong"
    wrong.write_text(cluster_token[::-1])
    environment = {**os.environ, **cluster.variables, "RAY_AUTH_TOKEN_PATH": str(wrong)}
    done = subprocess.run(
        [sys.executable, "-c", script, cluster.state.dashboard],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert "refuses the token" in done.stderr


def test_a_second_cluster_in_the_same_folder_is_refused(cluster):
    with pytest.raises(CodexRayError, match=r"is up in .* already; end it with `codex-ray cluster down"):
        up(ClusterUp(folder=str(cluster.folder.path)))
    assert states(cluster) == ["alive", "alive"]


def test_a_job_prepares_and_two_workers_on_two_nodes_train(cluster, tmp_path):
    text = make_text(tmp_path / "text")
    save(corpus_settings(text, tmp_path / "corpus"), tmp_path / "prepare.yaml")
    submit = ["--submit", cluster.state.dashboard]
    done = python(cluster, "-m", "codex_ray", "prepare", "--config", str(tmp_path / "prepare.yaml"), *submit)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "corpus" / "manifest.json").exists()
    save(run_settings(tmp_path / "corpus", tmp_path / "runs", "two"), tmp_path / "run.yaml")
    # Three of a node's four CPUs per worker: each node has room for one.
    words = ["pretrain", "--config", str(tmp_path / "run.yaml"), "cluster.cpus_per_worker=3", *submit]
    done = python(cluster, "-m", "codex_ray", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "runs" / "two"
    assert [step for step, _ in batches(run)] == list(range(1, STEPS + 1))
    assert weights(run)


def test_a_cut_node_is_lost_and_a_killed_one_dead_and_a_new_one_joins(cluster):
    if cluster.state.isolation == "namespaces":
        node = cluster.add_node()
        assert states(cluster) == ["alive", "alive", "alive"]
        cluster.cut_node(node.index)
        wait_for_states(cluster, ["alive", "alive", "lost"])
        cluster.heal_node(node.index)
    else:
        with pytest.raises(CodexRayError, match="share one network"):
            cluster.cut_node(1)
    cluster.kill_node(1)
    assert states(cluster)[1] == "dead"
    node = cluster.add_node()
    assert states(cluster)[node.index] == "alive"


def test_processes_without_namespaces_leave_nothing_either(cluster):
    assert states(cluster)[0] == "alive"  # it must survive the other's end
    with tempfile.TemporaryDirectory() as folder:
        with up(ClusterUp(folder=f"{folder}/other", isolation="processes", cpus_per_node=1)) as other:
            assert states(other) == ["alive", "alive"]
            everything = descendants(other)
        assert still_running(everything) == []
        assert list(Path(folder).iterdir()) == []
    assert states(cluster)[0] == "alive"


def test_an_interrupted_start_leaves_nothing(tmp_path):
    before = interfaces()
    command = [sys.executable, "-m", "codex_ray", "cluster", "up", str(tmp_path / "cluster")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    state = tmp_path / "cluster" / "cluster.json"
    while not (state.exists() and '"process": {' in state.read_text()):
        assert process.poll() is None
        time.sleep(0.1)
    mark = LocalCluster.open(tmp_path / "cluster").state.mark()
    assert find(mark)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "codex-ray: error: interrupted\n")
    assert find(mark) == []
    assert not (tmp_path / "cluster").exists()
    assert interfaces() == before


def test_a_killed_start_is_taken_down_from_its_folder(tmp_path):
    before = interfaces()
    command = [sys.executable, "-m", "codex_ray", "cluster", "up", str(tmp_path / "cluster")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    state = tmp_path / "cluster" / "cluster.json"
    while not (state.exists() and '"process": {' in state.read_text()):
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    left = LocalCluster.open(tmp_path / "cluster")
    assert find(left.state.mark())
    left.down()
    left.down()
    assert find(left.state.mark()) == []
    assert not (tmp_path / "cluster").exists()
    assert not Path(left.state.temporary).exists()
    assert interfaces() == before


@pytest.mark.skipif(unavailable(False) is not None, reason="no unprivileged user namespaces here")
def test_an_ordinary_users_namespaces_take_jobs_through_the_relay(tmp_path, monkeypatch):
    monkeypatch.setattr("codex_ray.cluster.local.choose_rights", lambda isolation: False)
    before = interfaces()
    with up(ClusterUp(folder=str(tmp_path / "cluster"))) as cluster:
        assert interfaces() == before
        script = "import sys; from codex_ray.cluster.jobs import connect; connect(sys.argv[1]).list_jobs()"
        assert python(cluster, "-c", script, cluster.state.dashboard).returncode == 0
        done = python(cluster, "-c", WHO, node=0)
        assert done.returncode == 0, done.stderr
        assert {line.split()[1] for line in done.stdout.splitlines()} == {n.address for n in cluster.nodes}
        everything = descendants(cluster)
    assert still_running(everything) == []
