"""What listens where is what docs/security.md says; who has no token or certificate stays out."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from codex_ray.cluster.addresses import is_loopback
from codex_ray.cluster.ray_node import free_ports

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| `(?P<process>[^`]+)` \| (?P<where>[a-z ]+) \|", re.MULTILINE)
ALL = {"0.0.0.0", "::"}
WIDTHS = ["loopback", "address of the node", "all addresses"]
ASK = "import ray; ray.init(log_to_driver=False); print(ray.get(ray.remote(lambda: 6 * 7).remote()))"


def documented() -> dict[str, str]:
    """Return where each process listens, by words of its command line."""
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    section = page.partition("## What listens where")[2].partition("\n## ")[0]
    return {match["process"]: match["where"] for match in ROW.finditer(section)}


@dataclass(frozen=True)
class Head:
    address: str
    dashboard: int
    environment: dict[str, str]
    tls: dict[str, str]
    authority: Path
    process: psutil.Process

    def driver(self, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", ASK],
            env={**self.environment, "RAY_ADDRESS": self.address, **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head with a token and TLS, started as `ray start` starts it."""
    with tempfile.TemporaryDirectory(prefix="cr_") as name:
        folder = Path(name)
        places = [str(folder / "authority"), str(folder / "tls")]
        issue = ["sh", str(ROOT / "cluster" / "tls" / "issue.sh"), *places]
        subprocess.run(issue, check=True, timeout=60)  # for the address that Ray takes for this host
        token = folder / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        environment = {
            **kept,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        tls = {
            "RAY_USE_TLS": "1",
            "RAY_TLS_SERVER_CERT": str(folder / "tls" / "tls.crt"),
            "RAY_TLS_SERVER_KEY": str(folder / "tls" / "tls.key"),
            "RAY_TLS_CA_CERT": str(folder / "tls" / "ca.crt"),
        }
        gcs, dashboard, client, agent = free_ports(4)
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={gcs}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--node-ip-address=127.0.0.1"),
            *(f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"),
            *("--num-cpus=2", f"--temp-dir={folder}/ray", f"--object-store-memory={100 * 2**20}"),
            "--disable-usage-stats",
        ]
        log = folder / "log"
        with log.open("w") as stream:
            process = psutil.Popen(command, env=environment | tls, stdout=stream, stderr=stream)
        try:
            deadline = time.monotonic() + 120
            while status(f"http://127.0.0.1:{dashboard}/api/jobs/") is None:
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(1)
            yield Head(
                f"127.0.0.1:{gcs}", dashboard, environment, tls, folder / "authority" / "ca.crt", process
            )
        finally:
            mine = [process, *process.children(recursive=True)]
            process.send_signal(signal.SIGTERM)
            _, alive = psutil.wait_procs(mine, timeout=30)
            for one in alive:
                one.kill()


def status(url: str, token: str | None = None) -> int | None:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def listening(process: psutil.Process) -> Iterator[tuple[str, str, int]]:
    for one in [process, *process.children(recursive=True)]:
        try:
            words = " ".join(one.cmdline())
            for connection in one.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    yield words, connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port
        except psutil.NoSuchProcess:
            continue


def test_what_listens_where_is_what_the_page_says(head: Head) -> None:
    assert head.driver(**head.tls).returncode == 0  # so that workers are there too
    rows = documented()
    assert len(rows) >= 8
    seen = set()
    for words, address, port in listening(head.process):
        (name,) = [name for name in rows if name in words][:1] or [None]
        assert name, f"{address}:{port} of {words[:200]} is not in docs/security.md"
        seen.add(name)
        width = 2 if address in ALL else 0 if is_loopback(address) else 1
        assert width <= WIDTHS.index(rows[name]), f"{name} listens on {address}"
    assert {"gcs_server", "raylet", "dashboard.py"} <= seen


def test_the_dashboard_asks_for_the_token_and_runs_nothing_without(head: Head) -> None:
    url = f"http://127.0.0.1:{head.dashboard}"
    for path in ("/api/jobs/", "/api/v0/nodes", "/nodes?view=summary", "/api/serve/applications/"):
        assert status(url + path) in (401, 403), path
        assert status(url + path, "wrong") in (401, 403), path
    token = Path(head.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    assert status(url + "/api/jobs/", token) == 200


def test_who_has_no_certificate_or_no_token_stays_out(head: Head) -> None:
    done = head.driver(**head.tls)
    assert done.stdout.strip().endswith("42"), done.stderr
    host, _, port = head.address.rpartition(":")
    context = ssl.create_default_context(cafile=str(head.authority))
    raw = socket.create_connection((host, int(port)), timeout=10)
    with context.wrap_socket(raw, server_hostname="127.0.0.1") as secure:
        assert secure.version() in ("TLSv1.2", "TLSv1.3")
    assert head.driver(**head.tls, RAY_AUTH_TOKEN="0" * 64, RAY_AUTH_TOKEN_PATH="").returncode != 0
    with contextlib.suppress(subprocess.TimeoutExpired):  # Ray may try for longer
        assert head.driver().returncode != 0
