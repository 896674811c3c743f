from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from codex_ray import cli
from codex_ray.cluster import local_cluster
from codex_ray.cluster.local import up
from codex_ray.cluster.local_cluster import LocalCluster, NodeStatus
from codex_ray.cluster.local_state import ClusterFolder, Node, State
from codex_ray.cluster.local_verbs import table, use
from codex_ray.cluster.processes import Started, find
from codex_ray.cluster.ray_node import ask, client_variables, free_ports, node_command, node_variables
from codex_ray.config.cluster import ClusterUp
from codex_ray.errors import CodexRayError

STATE = State(
    name="abc123",
    isolation="namespaces",
    administrator=False,
    subnet="10.213.4.0/24",
    temporary="/tmp/cr_none",
    gcs="10.213.4.1:6000",
    dashboard="http://127.0.0.1:6001",
    cpus_per_node=3,
    memory_bytes=2**30,
    object_store_bytes=2**27,
    timeout_seconds=9.0,
    hub=Started(5, 1.5),
    nodes=[Node(0, "10.213.4.1", "eth0", Started(7, 2.5), Started(6, 2.0)), Node(1, "10.213.4.2", "eth0")],
)


def test_the_state_is_read_as_it_was_written(tmp_path):
    folder = ClusterFolder(tmp_path / "a")
    assert not folder.holds_cluster()
    folder.save(STATE)
    assert folder.load() == STATE
    folder.write_token()
    assert folder.token.stat().st_mode & 0o777 == 0o600
    folder.remove()
    assert not folder.path.exists()


def test_a_state_of_another_version_is_refused(tmp_path):
    folder = ClusterFolder(tmp_path)
    folder.save(STATE)
    path = tmp_path / "cluster.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(CodexRayError, match="another version"):
        folder.load()


def test_a_folder_of_other_files_is_refused_and_keeps_them(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(CodexRayError, match=r"holds other files \(thesis\.txt\)"):
        up(ClusterUp(folder=str(tmp_path), isolation="processes"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_start_that_is_refused_leaves_no_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CodexRayError, match="network namespaces are not possible here"):
        up(ClusterUp(folder=str(tmp_path / "a"), isolation="namespaces"))
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_died_before_its_first_process_is_shown_and_taken_down(tmp_path):
    folder = ClusterFolder(tmp_path / "a")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    folder.save(State(**{**vars(STATE), "nodes": [], "hub": None, "temporary": str(temporary)}))
    cluster = LocalCluster.open(folder.path)
    assert cluster.status() == []
    cluster.down()
    cluster.down()
    assert list(tmp_path.iterdir()) == []


def test_a_node_is_started_within_its_bounds(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere")
    head, second = (
        node_command(STATE, node, labels)
        for node, labels in zip(STATE.nodes, ({}, {"pool": "spot"}), strict=True)
    )
    assert "--labels=pool=spot" in second and not any("--labels" in word for word in head)
    for command in (head, second):
        assert {"--num-cpus=3", "--num-gpus=0", f"--memory={2**30}"} <= set(command)
        assert f"--object-store-memory={2**27}" in command
    assert {"--head", "--port=6000", "--dashboard-host=127.0.0.1", "--dashboard-port=6001"} <= set(head)
    assert "--address=10.213.4.1:6000" in second and "--head" not in second
    variables = node_variables(STATE.nodes[1], tmp_path / "token")
    assert "RAY_ADDRESS" not in variables
    assert variables["RAY_AUTH_MODE"] == "token"
    assert variables["GLOO_SOCKET_IFNAME"] == "eth0"
    assert variables["PATH"].startswith(str(Path(sys.executable).parent))
    assert client_variables(STATE, tmp_path / "token")["RAY_ADDRESS"] == "10.213.4.1:6000"


def test_free_ports_differ_and_nobody_answers_there():
    ports = free_ports(5)
    assert len(set(ports)) == 5
    assert ask(f"http://127.0.0.1:{ports[0]}", "token") is None


@pytest.mark.parametrize(
    ("script", "seconds", "sentence"),
    [
        (
            "print('no room for an object store'); raise SystemExit(1)",
            60,
            "node-0 ended while it started .no r",
        ),
        (
            "import time; print('thinking', flush=True); time.sleep(99)",
            2,
            "node-0 is not alive after 2 s .the h",
        ),
    ],
)
@pytest.mark.parametrize("isolation", ["auto", "processes"])
def test_a_node_that_does_not_come_up_leaves_nothing(
    monkeypatch, tmp_path, script, seconds, sentence, isolation
):
    plans: list[State] = []

    def command(state: State, node: Node, labels: dict[str, str]) -> list[str]:
        plans.append(state)
        return [sys.executable, "-c", script]

    monkeypatch.setattr(local_cluster, "node_command", command)
    before = set(psutil.net_if_addrs())
    with pytest.raises(CodexRayError, match=sentence):
        up(ClusterUp(folder=str(tmp_path / "a"), isolation=isolation, timeout_seconds=float(seconds)))
    assert find(plans[0].mark()) == []
    assert set(psutil.net_if_addrs()) == before
    assert not Path(plans[0].temporary).exists()
    assert list(tmp_path.iterdir()) == []


def test_no_cluster_is_said_so_and_down_has_nothing_to_do(tmp_path, capsys):
    assert cli.main(["cluster", "down", str(tmp_path / "a")]) == 0
    assert "no local cluster is up in" in capsys.readouterr().out
    assert cli.main(["cluster", "status", str(tmp_path / "a")]) == 1
    assert "start one with `codex-ray cluster up`" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_node_without_a_network_of_its_own_cannot_be_cut(tmp_path):
    cluster = LocalCluster(ClusterFolder(tmp_path), State(**{**vars(STATE), "subnet": ""}))
    with pytest.raises(CodexRayError, match="isolation=namespaces"):
        cluster.cut_node(1)
    with pytest.raises(CodexRayError, match="there is no node 2; the cluster has 0 to 1"):
        cluster.kill_node(2)


def test_the_table_shows_what_a_node_has_and_that_a_dead_one_has_nothing():
    resources = {"CPU": 3.0, "memory": 2.0**30, "object_store_memory": 2.0**27}
    found = [NodeStatus(STATE.nodes[0], "alive", resources), NodeStatus(STATE.nodes[1], "dead", {})]
    lines = table(found).splitlines()
    assert " ".join(lines[1].split()) == "0 (head) alive 10.213.4.1 eth0 3 1024 MiB 128 MiB"
    assert " ".join(lines[2].split()) == "1 dead 10.213.4.2 eth0 - - -"


def test_the_commands_shown_work_from_where_they_are_typed(tmp_path):
    folder = ClusterFolder(tmp_path / "my cluster")
    closed = use(LocalCluster(folder, STATE))
    assert closed[0] == f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH='{folder.token}'"
    assert closed[2].startswith("RAY_ADDRESS=10.213.4.1:6000 nsenter --target 6 --net --user")
    assert closed[-1] == f"codex-ray cluster down '{folder.path}'"
    reached = use(LocalCluster(folder, State(**{**vars(STATE), "nodes": [Node(0, "10.213.4.1", "cr")]})))
    assert reached[0].startswith("export RAY_ADDRESS=10.213.4.1:6000 RAY_AUTH_MODE=token ")
    assert reached[1].endswith("--submit http://127.0.0.1:6001")
