"""A real cluster of two nodes on this machine: what it runs, what a lost node looks like, what it leaves."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from codex_ray.cluster.local import up
from codex_ray.cluster.local_cluster import LocalCluster
from codex_ray.cluster.processes import find
from codex_ray.config.cluster import ClusterUp
from codex_ray.config.saved import save
from codex_ray.corpus.prepare import prepare
from codex_ray.errors import CodexRayError
from codex_ray.train.messages import MessageReader
from tests.cluster.clients import LIST_JOBS, WHO, descendants, interfaces, python, states, still_running
from tests.integration.training import (
    STEPS,
    batches,
    corpus_settings,
    make_text,
    run_settings,
    weights,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def wait_until_not_alive(cluster: LocalCluster, index: int) -> str:
    """Return what a node is once it is no longer alive, however Ray finds out."""
    deadline = time.monotonic() + 240
    while (found := states(cluster)[index]) == "alive":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return found


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


def test_the_token_is_private_and_needed(cluster, tmp_path):
    assert cluster.folder.token.stat().st_mode & 0o777 == 0o600
    assert python(cluster, "-c", LIST_JOBS, cluster.state.dashboard).returncode == 0
    wrong = tmp_path / "token"
    wrong.write_text(cluster.folder.token.read_text()[::-1])
    done = python(cluster, "-c", LIST_JOBS, cluster.state.dashboard, RAY_AUTH_TOKEN_PATH=str(wrong))
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


def test_a_sweep_as_a_job_has_as_many_trials_as_nodes_hold_whole(cluster, tmp_path):
    prepare(corpus_settings(make_text(tmp_path / "text"), tmp_path / "corpus"))
    save(run_settings(tmp_path / "corpus", tmp_path / "runs", "unused"), tmp_path / "base.yaml")
    words = ["sweep", f"base_config={tmp_path / 'base.yaml'}", f"runs={tmp_path / 'runs'}", "name=s"]
    words += ["optimizer.learning_rate=1e-3,2e-3,3e-3,4e-3", "sweep.search=grid", "track.progress=plain"]
    # Of each node's four CPUs a worker and its data take over half, so that the cluster holds two whole.
    words += ["cluster.workers=1", "cluster.cpus_per_worker=2.5"]
    done = python(cluster, "-m", "codex_ray", *words, "--submit", cluster.state.dashboard)
    assert done.returncode == 0, done.stdout + done.stderr
    trials = json.loads((tmp_path / "runs" / "s" / "trials.json").read_text())
    assert [trial["state"] for trial in trials] == ["completed"] * 4
    moments = [trial["began"] for trial in trials]
    running = [sum(trial["began"] <= at < trial["ended"] for trial in trials) for at in moments]
    assert max(running) == 2
    folders = [tmp_path / "runs" / "s" / "trials" / f"trial_{trial['number']:04d}" for trial in trials]
    messages = [MessageReader(folder / "attempts" / "1").new() for folder in folders]
    nodes = {item["node"] for some in messages for item in some if item["kind"] == "worker"}
    assert len(nodes) == 2 or cluster.state.isolation == "processes"


def test_a_node_that_is_cut_off_for_long_is_given_up_and_for_a_moment_is_kept(cluster):
    if cluster.state.isolation == "processes":
        with pytest.raises(CodexRayError, match="share one network"):
            cluster.cut_node(1)
        return
    cluster.cut_node(1)
    time.sleep(3)
    cluster.heal_node(1)
    done = python(cluster, "-c", WHO)
    assert len({line.split()[0] for line in done.stdout.splitlines()}) == 2, done.stderr
    node = cluster.add_node()
    assert states(cluster) == ["alive", "alive", "alive"]
    cluster.cut_node(node.index)
    # A raylet that does not reach the head ends itself at about the time the head gives it up.
    assert wait_until_not_alive(cluster, node.index) in ("lost", "dead")
    cluster.heal_node(node.index)
    assert states(cluster)[:2] == ["alive", "alive"]


def test_a_killed_node_is_dead_at_once_and_a_new_one_joins(cluster):
    cluster.kill_node(1)
    assert states(cluster)[:2] == ["alive", "dead"]
    node = cluster.add_node()
    assert states(cluster)[node.index] == "alive"
    reopened = LocalCluster.open(cluster.folder.path)
    assert [n.name for n in reopened.nodes] == [n.name for n in cluster.nodes]
    assert states(reopened)[1] == "dead"
