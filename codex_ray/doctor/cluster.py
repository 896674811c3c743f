"""The checks of a cluster: every node looks at itself, then each pair at what lies between."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codex_ray.cluster.network import use_node_interface
from codex_ray.cluster.session import open_session
from codex_ray.config.common import Cluster
from codex_ray.config.doctor import Doctor
from codex_ray.doctor import nodes
from codex_ray.doctor.finding import FAILED, OK, Finding, guarded, of_all_nodes
from codex_ray.doctor.links import Link, Meeting, last_line, link_finding, pairs
from codex_ray.doctor.machine import machine_findings, requirements

_HERE = "here"


class Examiner:
    """A process on a node, which looks at its machine."""

    def __init__(self) -> None:
        # Ray hides the GPUs from an actor that has asked for none, and these are to be looked at.
        if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
            del os.environ["CUDA_VISIBLE_DEVICES"]

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function there."""
        return function(*arguments)


class Side(Meeting):
    """One side of a pair, on the interface that training would use."""

    def __init__(self, backend: str) -> None:
        use_node_interface()
        super().__init__(backend)


@dataclass(frozen=True)
class _Node:
    name: str
    identity: str
    address: str
    resources: dict[str, float]
    examiner: Any


class _Nodes:
    """The nodes that answer."""

    def __init__(self, there: Sequence[_Node], seconds: float) -> None:
        self.there = list(there)
        self._seconds = seconds

    def ask(self, function: Callable[..., Any], *arguments: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """Run a function on all at once; returns the answers, and why others gave none, by node."""
        import ray

        asked = {node.name: node.examiner.call.remote(function, *arguments) for node in self.there}
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=self._seconds)
        answers, failed = {}, {}
        for name, reference in asked.items():
            try:
                answers[name] = ray.get(reference, timeout=0.1)
            except Exception as error:
                failed[name] = last_line(error)
        return answers, failed

    def ask_one(self, node: _Node, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function on one node and return its answer."""
        import ray

        return ray.get(node.examiner.call.remote(function, *arguments), timeout=self._seconds)


def cluster_findings(settings: Doctor, address: str | None) -> list[Finding]:
    """Look at every node of a cluster; ``address`` unset joins the session that is open.

    Raises:
        CodexRayError: the cluster does not answer.
    """
    import ray

    with open_session(Cluster(address=address)):
        listed = ray.nodes()
        every = _Nodes(_started([node for node in listed if node["Alive"]]), settings.timeout_seconds)
        found = [_alive(every.there, [node["NodeManagerAddress"] for node in listed if not node["Alive"]])]
        answers, failed = every.ask(machine_findings, settings)
        if failed:
            words = "; ".join(f"{name}: {why}" for name, why in failed.items())
            remedy = f"look at those nodes' logs (timeout_seconds={settings.timeout_seconds:g} were waited)"
            found.append(Finding("answers", FAILED, f"none from {words}", remedy))
        found += of_all_nodes(answers)
        there = _Nodes([node for node in every.there if node.name in answers], settings.timeout_seconds)
        found += _common(settings, there)
        found.append(guarded("gloo", lambda: _links("gloo", there.there, settings)))
        with_gpus = [node for node in there.there if node.resources.get("GPU", 0) >= 1]
        if len(with_gpus) > 1 or any(node.resources["GPU"] > 1 for node in with_gpus):
            found.append(guarded("nccl", lambda: _links("nccl", with_gpus, settings)))
        return found


def _started(listed: Sequence[dict[str, Any]]) -> list[_Node]:
    """Start an examiner on each node; nodes are called by their addresses, numbered where these repeat."""
    addresses = [node["NodeManagerAddress"] for node in listed]
    return [
        _Node(
            address if addresses.count(address) == 1 else f"{address}#{number}",
            node["NodeID"],
            address,
            node["Resources"],
            _actor(Examiner, node["NodeID"]),
        )
        for number, (node, address) in enumerate(zip(listed, addresses, strict=True))
    ]


def _actor(kind: type[Any], identity: str, *arguments: Any, gpus: int = 0) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy = NodeAffinitySchedulingStrategy(identity, soft=False)
    remote = ray.remote(num_cpus=0, num_gpus=gpus, max_restarts=0)(kind)
    return remote.options(scheduling_strategy=strategy).remote(*arguments)


def _alive(there: Sequence[_Node], dead: Sequence[str]) -> Finding:
    cpus, gpus = (sum(node.resources.get(kind, 0) for node in there) for kind in ("CPU", "GPU"))
    found = f"{len(there)} alive with {cpus:g} CPUs and {gpus:g} GPUs"
    if dead:
        remedy = "look at `ray status` and at those nodes' logs, and start them again"
        return Finding("nodes", FAILED, f"{found}; gone: {', '.join(dead)}", remedy)
    return Finding("nodes", OK, found)


def _common(settings: Doctor, there: _Nodes) -> list[Finding]:
    """Check what the nodes must have in common."""
    import ray

    dashboard = ray._private.worker.global_worker.node.webui_url

    def versions() -> Finding:
        packages = [requirement.name for requirement in requirements()]
        facts, _ = there.ask(nodes.node_facts, packages)
        return nodes.versions({_HERE: nodes.node_facts(packages), **facts})

    def clocks() -> Finding:
        skews = {
            node.name: nodes.skew(lambda node=node: there.ask_one(node, time.time), time.time)  # type: ignore[misc]
            for node in there.there
        }
        return nodes.clocks(skews, settings.most_clock_skew_seconds)

    def ports() -> Finding:
        sockets, _ = there.ask(nodes.listening_sockets)
        port = (dashboard or "").rpartition(":")[2]
        return nodes.open_ports(sockets, {int(port): "Ray's dashboard"} if port.isdigit() else {})

    checks = {
        "versions": versions,
        "clocks": clocks,
        "authentication": lambda: nodes.authentication(dashboard),
        "ports": ports,
        "storage": lambda: _storage(settings, there),
    }
    if len(there.there) < 2:
        del checks["storage"]
    return [guarded(name, check) for name, check in checks.items()]


def _storage(settings: Doctor, there: _Nodes) -> Finding:
    """Let every process write a file into the folder, and read those of all others."""
    folder = str(Path(settings.folder).expanduser().absolute())
    mark = f".codex_ray_doctor_{secrets.token_hex(6)}_"
    errors = {_HERE: nodes.leave_word(folder, mark + _HERE)}
    try:
        for node in there.there:
            errors[node.name] = there.ask_one(node, nodes.leave_word, folder, mark + node.name)
        seen, _ = there.ask(nodes.words, folder, mark)
        return nodes.storage(folder, {_HERE: nodes.words(folder, mark), **seen}, errors)
    finally:
        nodes.forget(folder, mark)
        there.ask(nodes.forget, folder, mark)


def _links(backend: str, there: Sequence[_Node], settings: Doctor) -> Finding:
    return link_finding(
        backend,
        [_link(backend, there[first], there[second], settings) for first, second in pairs(len(there))],
    )


def _link(backend: str, first: _Node, second: _Node, settings: Doctor) -> Link:
    """Let two processes meet, a GPU each under NCCL, and measure what lies between them."""
    import ray

    seconds = settings.timeout_seconds
    gpus = 1 if backend == "nccl" else 0
    names = (first.name, second.name)
    sides = [_actor(Side, node.identity, backend, gpus=gpus) for node in (first, second)]
    try:
        port = ray.get(sides[0].listen.remote(first.address, seconds), timeout=seconds)
        measured = [
            side.measure.remote(rank, first.address, port, settings.transfer_bytes, seconds)
            for rank, side in enumerate(sides)
        ]
        latency, bandwidth = ray.get(measured, timeout=2 * seconds)[0]
    except Exception as error:
        return Link(names, error=last_line(error))
    finally:
        for side in sides:
            ray.kill(side)
    return Link(names, latency, bandwidth)
