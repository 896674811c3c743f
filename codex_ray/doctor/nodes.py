"""What the nodes of a cluster must have in common: versions, code, clock, files, a token."""

from __future__ import annotations

import platform
import statistics
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from codex_ray.cluster.addresses import is_loopback
from codex_ray.doctor.finding import FAILED, NOTE, OK, Finding
from codex_ray.track.environment import code_fingerprint

_ANSWER_SECONDS = 10.0
_PROBES = 9


def node_facts(packages: Sequence[str]) -> dict[str, str]:
    """Return what must be equal on all nodes, by name: Python, our code, and the versions of packages."""
    from importlib.metadata import PackageNotFoundError, version

    facts = {"Python": platform.python_version(), "codex_ray's code": code_fingerprint()}
    for name in packages:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = "missing"
    return facts


def versions(facts: Mapping[str, Mapping[str, str]]) -> Finding:
    """Whether all nodes, and this process (``driver``), have the same versions."""
    names = dict.fromkeys(name for of_node in facts.values() for name in of_node)
    differing = []
    for name in names:
        nodes: dict[str, list[str]] = {}
        for node, of_node in facts.items():
            nodes.setdefault(of_node.get(name, "missing"), []).append(node)
        if len(nodes) > 1:
            told = ", ".join(f"{value} on {' and '.join(on)}" for value, on in nodes.items())
            differing.append(f"{name} is {told}")
    if differing:
        remedy = "install the same lock on every node (one image for all is simplest)"
        return Finding("versions", FAILED, "; ".join(differing), remedy)
    return Finding("versions", OK, f"{len(names)} equal on {len(facts) - 1} nodes and here")


def skew(ask: Callable[[], float], clock: Callable[[], float]) -> tuple[float, float]:
    """Return how far a node's clock is ahead of this one's, and how far that may be wrong, in seconds.

    As NTP does: of several questions the one answered soonest counts, its answer taken to be of the middle.
    """
    trips = []
    for _ in range(_PROBES):
        before = clock()
        told = ask()
        after = clock()
        trips.append((after - before, told - (before + after) / 2))
    trip, offset = min(trips)
    return offset, trip / 2


def clocks(skews: Mapping[str, tuple[float, float]], most: float) -> Finding:
    """Whether the nodes' clocks agree with this one's."""
    figures = {
        node: {"seconds": offset, "uncertain_by_seconds": error} for node, (offset, error) in skews.items()
    }
    apart = {node: offset for node, (offset, error) in skews.items() if abs(offset) - error > most}
    if apart:
        words = ", ".join(f"{node} by {offset:+.3f} s" for node, offset in apart.items())
        remedy = f"let chrony or systemd-timesyncd run on every node (over {most:g} s counts)"
        return Finding("clocks", FAILED, f"off: {words}", remedy, figures)
    most_apart = max((abs(offset) for offset, _ in skews.values()), default=0.0)
    middle = statistics.median(error for _, error in skews.values()) if skews else 0.0
    return Finding("clocks", OK, f"at most {most_apart:.3f} s apart (± {middle:.3f} s)", figures=figures)


def leave_word(folder: str, name: str) -> str:
    """Write a file into the folder that nodes should share; returns why that failed, or nothing."""
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        (place / name).touch()
    except OSError as error:
        return str(error)
    return ""


def words(folder: str, mark: str) -> list[str]:
    """Return who has written into the folder, as far as this node sees."""
    place = Path(folder)
    return [path.name.removeprefix(mark) for path in place.glob(f"{mark}*")] if place.is_dir() else []


def forget(folder: str, mark: str) -> None:
    """Remove the files again."""
    for path in Path(folder).glob(f"{mark}*"):
        path.unlink(missing_ok=True)


def storage(folder: str, seen: Mapping[str, Sequence[str]], errors: Mapping[str, str]) -> Finding:
    """Whether every node sees what each has written.

    Args:
        folder: the folder.
        seen: whose files each process sees.
        errors: why a process could not write; empty where it could.
    """
    remedy = "give folder=FOLDER on storage that all nodes mount at the same path (NFS, Lustre, a PVC)"
    wrong = [f"{node} cannot write: {why}" for node, why in errors.items() if why]
    for node, written in seen.items():
        blind = [other for other in seen if other not in written and not errors.get(other)]
        if blind:
            wrong.append(f"{node} does not see what {' and '.join(blind)} wrote")
    if wrong:
        return Finding("storage", FAILED, f"{folder}: {'; '.join(wrong)}", remedy)
    return Finding("storage", OK, f"{folder} is seen by all {len(seen) - 1} nodes and from here")


def authentication(dashboard: str | None) -> Finding:
    """Whether Ray's dashboard, by which anyone may run code, refuses a request without the token."""
    if not dashboard:
        remedy = "start the head with its dashboard for `--submit`; nothing else needs it"
        return Finding("authentication", NOTE, "the cluster has no dashboard to ask", remedy)
    url = dashboard if "://" in dashboard else f"http://{dashboard}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/api/jobs/", timeout=_ANSWER_SECONDS) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
    except OSError as error:
        remedy = "forward its port to this machine (`ssh -L`) for `--submit`; nothing else needs it"
        return Finding("authentication", NOTE, f"{url} does not answer from here ({error})", remedy)
    if status in (401, 403):
        return Finding("authentication", OK, f"{url} asks for the token")
    remedy = "start every node with RAY_AUTH_MODE=token and the same RAY_AUTH_TOKEN_PATH"
    return Finding("authentication", FAILED, f"{url} runs jobs without a token (status {status})", remedy)


def open_ports(listening: Mapping[str, Sequence[tuple[str, int]]], inner: Mapping[int, str]) -> Finding:
    """Say which of Ray's well-known ports listen beyond loopback, where a firewall has to stand before them.

    Args:
        listening: of each node, the addresses and ports where its processes listen.
        inner: ports for loopback alone, with what listens there.
    """
    wrong = [
        f"{node}: {inner[port]} listens on {address}:{port}"
        for node, sockets in listening.items()
        for address, port in sockets
        if port in inner and not is_loopback(address)
    ]
    if wrong:
        remedy = "start the head with --dashboard-host=127.0.0.1, or put a firewall before it"
        return Finding("ports", NOTE, "; ".join(wrong), remedy)
    return Finding("ports", OK, f"neither {' nor '.join(inner.values())} listens beyond loopback")


def listening_sockets() -> list[tuple[str, int]]:
    """Return where processes of this node listen, as far as this user may see."""
    import psutil

    found: set[tuple[str, int]] = set()
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN:
            local: Any = connection.laddr
            found.add((local.ip, local.port))
    return sorted(found)
