"""`codex-ray doctor` of real nodes: a sound cluster, a node of other versions, one that is gone."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codex_ray.cluster.local import up
from codex_ray.cluster.local_cluster import LocalCluster
from codex_ray.config.cluster import ClusterUp
from tests.cluster.clients import python

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with (
        tempfile.TemporaryDirectory() as folder,
        up(ClusterUp(folder=f"{folder}/cluster", cpus_per_node=2)) as cluster,
    ):
        yield cluster


def doctor(cluster: LocalCluster, folder: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    words = ("doctor", str(folder), "least_free_bytes=0", "--json")
    done = python(cluster, "-m", "codex_ray", *words, node=0)
    told = json.loads(done.stdout[done.stdout.index("{") :])
    return done.returncode, {finding["name"]: finding for finding in told["findings"]}


def test_nodes_are_compared_and_meet(cluster: LocalCluster, tmp_path: Path) -> None:
    status, found = doctor(cluster, tmp_path)
    assert status == 0, found
    shared = {"nodes", "versions", "clocks", "authentication", "ports", "storage", "gloo"}
    assert shared | {"python", "compilers", "disk", "sandbox"} <= set(found)
    assert {name for name in shared if found[name]["state"] != "ok"} == set()
    assert "2 alive with 4 CPUs" in found["nodes"]["found"]
    assert "asks for the token" in found["authentication"]["found"]
    (figures,) = found["gloo"]["figures"].values()
    assert 0 < figures["seconds"] < 1
    assert figures["bytes_per_second"] > 1e6
    assert all(abs(one["seconds"]) < 1 for one in found["clocks"]["figures"].values())
    assert list(tmp_path.iterdir()) == []


def test_a_node_of_other_versions_and_one_that_is_gone_are_named(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "other" / "peft-0.1.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.1\n")
    path = os.pathsep.join(filter(None, [str(tmp_path / "other"), os.environ.get("PYTHONPATH")]))
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        added = cluster.add_node()
    status, found = doctor(cluster, tmp_path / "runs")
    assert status == 1
    assert found["versions"]["state"] == found["packages"]["state"] == "failed"
    assert f"0.1 on {added.address}" in found["versions"]["found"]
    assert "3 pairs meet" in found["gloo"]["found"]
    cluster.kill_node(added.index)
    while any(node.node.index == added.index and node.state == "alive" for node in cluster.status()):
        pass
    status, found = doctor(cluster, tmp_path / "runs")
    assert (status, found["versions"]["state"]) == (1, "ok")
    # Ray gives a node up after half a minute; until then it is one that does not answer.
    gone = found["nodes"] if found["nodes"]["state"] == "failed" else found["answers"]
    assert (gone["state"], added.address in gone["found"]) == ("failed", True)
