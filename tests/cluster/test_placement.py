"""Workers and the driver land on the nodes whose labels were asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from codex_ray.cluster.local import up
from codex_ray.cluster.local_cluster import LocalCluster
from codex_ray.config.cluster import ClusterUp
from codex_ray.config.common import Cluster
from codex_ray.config.saved import save
from codex_ray.config.train import Training
from codex_ray.corpus.prepare import prepare
from codex_ray.train.messages import MessageReader
from tests.cluster.clients import python
from tests.integration.training import GLOBAL_ROWS, LENGTH, corpus_settings, make_text, run_settings

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A head without labels, and a node each of two pools."""
    with (
        tempfile.TemporaryDirectory() as folder,
        up(ClusterUp(folder=f"{folder}/cluster", cpus_per_node=4, nodes=1)) as cluster,
    ):
        cluster.add_node({"pool": "spot"})
        cluster.add_node({"pool": "fixed"})
        yield cluster


def test_workers_and_driver_land_where_labels_say(cluster: LocalCluster, tmp_path: Path) -> None:
    if not cluster.state.subnet:
        pytest.fail("nodes without networks of their own cannot be told apart by address")
    corpus = tmp_path / "corpus"
    prepare(corpus_settings(make_text(tmp_path / "text"), corpus))
    wanted = {
        "spot": Cluster(workers=2, threads_per_worker=1, labels={"pool": "spot"}),
        "spread": Cluster(
            workers=2,
            threads_per_worker=1,
            labels={"pool": "in(spot,fixed)"},
            driver_labels={"pool": "fixed"},
            placement="strict_spread",
        ),
        "nowhere": Cluster(
            workers=5, threads_per_worker=1, labels={"pool": "!spot"}, placement="strict_pack"
        ),
    }
    addresses: dict[str, list[str]] = {}
    for name, where in wanted.items():
        settings = run_settings(corpus, tmp_path / "runs", name, cluster=where)
        settings = replace(settings, train=Training(steps=2, batch_tokens=GLOBAL_ROWS * LENGTH))
        if name == "nowhere":
            settings = replace(settings, train=Training(steps=2, batch_tokens=10 * LENGTH))
        save(settings, tmp_path / f"{name}.yaml")
        words = ["pretrain", "--config", str(tmp_path / f"{name}.yaml"), f"name={name}"]
        words += ["--submit", cluster.state.dashboard]
        done = python(cluster, "-m", "codex_ray", *words)
        if name == "nowhere":
            assert done.returncode == 1
            assert "the cluster's 2 such nodes can hold 4; lower cluster.workers or change" in done.stdout
            continue
        assert done.returncode == 0, done.stdout + done.stderr
        messages = MessageReader(tmp_path / "runs" / name / "attempts" / "1").new()
        addresses[name] = sorted(str(item["node"]) for item in messages if item["kind"] == "worker")
    _, spot, fixed = (node.address for node in cluster.nodes)
    assert addresses == {"spot": [spot, spot], "spread": sorted([spot, fixed])}
    listing = "from codex_ray.cluster.jobs import connect; import sys\n" + (
        "for job in connect(sys.argv[1]).list_jobs(): print(job.entrypoint, job.driver_info.node_ip_address)"
    )
    drivers = python(cluster, "-c", listing, cluster.state.dashboard).stdout.splitlines()
    [spread] = [line for line in drivers if "name=spread" in line.split()]
    assert spread.split()[-1] == fixed, drivers
