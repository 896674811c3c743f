"""What nodes must have in common: each comparison sees the node that differs."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from codex_ray.doctor import nodes
from codex_ray.doctor.cluster import Examiner
from codex_ray.doctor.finding import FAILED, NOTE, OK
from codex_ray.doctor.links import Link, link_finding


def test_a_node_of_another_version_is_named() -> None:
    here = nodes.node_facts(["ray", "torch", "no-such-package"])
    assert here["no-such-package"] == "missing"
    assert {"Python", "codex_ray's code", "ray", "torch"} <= set(here)
    assert nodes.versions({"here": here, "a": here}).state == OK
    found = nodes.versions({"here": here, "a": here, "b": {**here, "torch": "2.0.0"}})
    assert found.state == FAILED
    assert found.found == f"torch is {here['torch']} on here and a, 2.0.0 on b"


def test_a_clock_that_is_off_is_measured_through_a_slow_network() -> None:
    now = [100.0]

    def clock() -> float:
        return now[0]

    def ask(ahead: float) -> float:
        now[0] += 0.25
        told = now[0] + ahead
        now[0] += 0.25
        return told

    assert nodes.skew(lambda: ask(3.0), clock) == (3.0, 0.25)
    skews = {"a": nodes.skew(lambda: ask(0.0), clock), "b": nodes.skew(lambda: ask(-3.0), clock)}
    found = nodes.clocks(skews, 1.0)
    assert (found.state, found.found) == (FAILED, "off: b by -3.000 s")
    assert nodes.clocks(skews, 3.0).state == OK
    assert nodes.clocks({"a": (1.2, 0.25)}, 1.0).state == OK  # it may be 0.95


def test_a_folder_that_a_node_does_not_share_is_seen(tmp_path: Path) -> None:
    shared, own = str(tmp_path / "shared"), str(tmp_path / "own")
    for name in ("here", "a"):
        assert nodes.leave_word(shared, f"mark_{name}") == ""
    nodes.leave_word(own, "mark_b")
    seen = {
        "here": nodes.words(shared, "mark_"),
        "a": nodes.words(shared, "mark_"),
        "b": nodes.words(own, "mark_"),
    }
    found = nodes.storage(shared, seen, {})
    assert found.state == FAILED
    assert "b does not see what here and a wrote" in found.found
    assert nodes.storage(shared, {name: ["here", "a"] for name in ("here", "a")}, {}).state == OK
    nodes.forget(shared, "mark_")
    assert list(Path(shared).iterdir()) == []
    why = nodes.leave_word("/proc/nowhere", "x")
    assert "cannot write" in nodes.storage("/proc", {"a": []}, {"a": why}).found


@pytest.fixture
def open_dashboard() -> Iterator[HTTPServer]:
    """A dashboard that asks nobody for a token; ``answer`` is what it says."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(self.server.answer)  # type: ignore[attr-defined]
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_dashboard_that_needs_no_token_is_a_failure(open_dashboard: HTTPServer) -> None:
    url = f"127.0.0.1:{open_dashboard.server_port}"
    open_dashboard.answer = 200  # type: ignore[attr-defined]
    found = nodes.authentication(url)
    assert (found.state, "runs jobs without a token" in found.found) == (FAILED, True)
    open_dashboard.answer = 401  # type: ignore[attr-defined]
    assert nodes.authentication(url).state == OK
    assert nodes.authentication("127.0.0.1:1").state == NOTE
    assert nodes.authentication(None).state == NOTE


def test_a_dashboard_beyond_loopback_is_noted() -> None:
    inner = {8265: "Ray's dashboard"}
    inside = [("127.0.0.1", 8265), ("::ffff:127.0.0.1", 8265), ("::1", 8265)]
    found = nodes.open_ports({"a": inside, "b": [("0.0.0.0", 8265), ("0.0.0.0", 80)]}, inner)
    assert (found.state, found.found) == (NOTE, "b: Ray's dashboard listens on 0.0.0.0:8265")
    assert nodes.open_ports({"a": [("127.0.0.1", 8265)]}, inner).state == OK
    assert nodes.listening_sockets() is not None


def test_an_examiner_sees_gpus_that_ray_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, left in (("", None), ("1", "1")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert Examiner().call(os.environ.get, "CUDA_VISIBLE_DEVICES") == left


def test_pairs_that_do_not_meet_and_the_slowest_are_named() -> None:
    links = [Link(("a", "b"), 1e-4, 2e9), Link(("a", "c"), 9e-4, 1e8)]
    found = link_finding("gloo", links)
    assert found.state == OK
    assert found.found == "2 pairs meet; slowest 0.10 GB/s (a - c), furthest 900 µs (a - c)"
    found = link_finding("nccl", [*links, Link(("b", "c"), error="timed out")])
    assert (found.state, found.found) == (FAILED, "1 of 3 pairs do not meet: b and c: timed out")
    assert "NCCL_SOCKET_IFNAME" in found.remedy
