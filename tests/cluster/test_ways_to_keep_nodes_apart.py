"""Each way of keeping nodes apart, starts that are broken off, and that none of them leaves anything."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from codex_ray.cluster.local import up
from codex_ray.cluster.local_cluster import LocalCluster
from codex_ray.cluster.namespaces import unavailable
from codex_ray.cluster.processes import find
from codex_ray.config.cluster import ClusterUp
from tests.cluster.clients import (
    LIST_JOBS,
    ROOT,
    WHO,
    descendants,
    interfaces,
    python,
    states,
    still_running,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_processes_without_namespaces_are_nodes_and_leave_nothing():
    with tempfile.TemporaryDirectory() as folder:
        with up(ClusterUp(folder=f"{folder}/cluster", isolation="processes")) as cluster:
            assert states(cluster) == ["alive", "alive"]
            done = python(cluster, "-c", WHO)
            assert done.returncode == 0, done.stderr
            assert len({line.split()[0] for line in done.stdout.splitlines()}) == 2
            assert {node.address for node in cluster.nodes} == {"127.0.0.1"}
            everything = descendants(cluster)
        assert still_running(everything) == []
        assert find(cluster.state.mark()) == []
        assert list(Path(folder).iterdir()) == []


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
        assert python(cluster, "-c", LIST_JOBS, cluster.state.dashboard).returncode == 0
        done = python(cluster, "-c", WHO, node=0)
        assert done.returncode == 0, done.stderr
        assert {line.split()[1] for line in done.stdout.splitlines()} == {n.address for n in cluster.nodes}
        everything = descendants(cluster)
    assert still_running(everything) == []
