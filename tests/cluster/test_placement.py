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
            driver_labels={"pool": "!in(spot,fixed)"},
            placement="strict_spread",
        ),
        "nowhere": Cluster(
            workers=5, threads_per_worker=1, labels={"pool": "!spot"}, placement="strict_pack"
        ),
    }
    # On nodes of one machine a driver away from the head takes the head's address for its own: workers
    # and the job's log do not reach it, and it is only seen where it began.
    wanted["elsewhere"] = replace(wanted["nowhere"], driver_labels={"pool": "fixed"})
    addresses: dict[str, list[str]] = {}
    for name, where in wanted.items():
        settings = run_settings(corpus, tmp_path / "runs", name, cluster=where)
        settings = replace(settings, train=Training(steps=2, batch_tokens=GLOBAL_ROWS * LENGTH))
        if name in ("nowhere", "elsewhere"):
            settings = replace(settings, train=Training(steps=2, batch_tokens=10 * LENGTH))
        save(settings, tmp_path / f"{name}.yaml")
        words = ["pretrain", "--config", str(tmp_path / f"{name}.yaml"), f"name={name}"]
        words += ["--submit", cluster.state.dashboard]
        done = python(cluster, "-m", "codex_ray", *words)
        if name in ("nowhere", "elsewhere"):
            assert done.returncode == 1
            told = "the cluster's 2 such nodes can hold 4; lower cluster.workers or change"
            assert told in done.stdout or name == "elsewhere"
            continue
        assert done.returncode == 0, done.stdout + done.stderr
        messages = MessageReader(tmp_path / "runs" / name / "attempts" / "1").new()
        addresses[name] = sorted(str(item["node"]) for item in messages if item["kind"] == "worker")
    head, spot, fixed = (node.address for node in cluster.nodes)
    assert addresses == {"spot": [spot, spot], "spread": sorted([spot, fixed])}
    listing = "from codex_ray.cluster.jobs import connect; import sys\n" + (
        "for job in connect(sys.argv[1]).list_jobs(): print(job.driver_agent_http_address, job.entrypoint)"
    )
    drivers = python(cluster, "-c", listing, cluster.state.dashboard).stdout.splitlines()
    for name, node in (("spread", head), ("nowhere", head), ("elsewhere", fixed)):
        [job] = [line.split() for line in drivers if f"name={name}" in line.split()]
        assert job[0].startswith(f"http://{node}:"), drivers
