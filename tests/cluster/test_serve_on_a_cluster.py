"""``serve deploy`` on two nodes: a replica on each, another model and other settings while clients ask."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from codex_ray.cluster.local import up
from codex_ray.cluster.local_cluster import LocalCluster
from codex_ray.config.cluster import ClusterUp
from codex_ray.model import load_model
from tests.cluster.clients import ROOT, environment, python
from tests.integration.test_serve import folder

__all__ = ["folder"]
pytestmark = [pytest.mark.cluster, pytest.mark.verify, pytest.mark.timeout(900)]
WAIT_SECONDS = 240.0

ASKING = """
import json, pathlib, sys, time
import openai
client = openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none", max_retries=10, timeout=120)
stop, out = pathlib.Path(sys.argv[1]), open(sys.argv[2], "a", buffering=1)
while not stop.exists():
    try:
        answer = client.completions.create(model="tiny", prompt="a", max_tokens=12, temperature=0, logprobs=0)
        found = [round(value, 2) for value in answer.choices[0].logprobs.token_logprobs]
    except openai.OpenAIError as error:
        found = f"{type(error).__name__}: {error}"
    print(json.dumps([time.time(), found]), file=out)
"""
WHERE = """
import ray
from ray.util.state import list_actors
ray.init(log_to_driver=False, logging_level="ERROR")
found = list_actors(filters=[("state", "=", "ALIVE")], limit=1000)
print(len({one.node_id for one in found if "ServeReplica:codex_ray:model" in one.class_name}))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with (
        tempfile.TemporaryDirectory() as place,
        up(ClusterUp(folder=f"{place}/cluster", cpus_per_node=4)) as one,
    ):
        yield one


def answers(file: Path, after: float) -> list[object]:
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [found for at, found in lines if at > after]


def wait_for_answers(file: Path, count: int) -> list[object]:
    began, deadline = time.time(), time.monotonic() + WAIT_SECONDS
    while len(found := answers(file, began)) < count:
        assert time.monotonic() < deadline, answers(file, 0)[-3:]
        time.sleep(0.3)
    return found


def deploy(cluster: LocalCluster, file: Path) -> None:
    address = f"http://{cluster.state.dashboard}".replace("http://http://", "http://")
    done = python(cluster, "-m", "ray.serve.scripts", "deploy", str(file), "-a", address)
    assert done.returncode == 0, done.stdout + done.stderr


OTHERS = """
import sys, time, ray
from ray import serve
ray.init(log_to_driver=False, logging_level="ERROR")
@serve.deployment
class Other:
    async def __call__(self): return "other"
serve.start(http_options={"host": "127.0.0.1", "port": 18700})
serve.run(Other.bind(), name="other", route_prefix="/other")
print("ready", flush=True)
time.sleep(600)
"""
GET = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=20).status)"


def test_each_server_listens_where_it_says(cluster: LocalCluster, folder: Path, tmp_path: Path) -> None:
    """One after another with other ports; beside somebody else's application it says whose port it is."""

    def serving(port: int) -> subprocess.Popen[str]:
        words = ["compute.dtype=float32", f"port={port}", f"access.keys={tmp_path / 'keys'}"]
        command = [
            *cluster.entering(0),
            sys.executable,
            "-m",
            "codex_ray",
            "serve",
            str(folder / "tiny"),
            *words,
        ]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(cluster),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def status(port: int) -> str:
        return python(cluster, "-c", GET, f"http://127.0.0.1:{port}/health", node=0).stdout.strip()

    for port in (18701, 18702):
        server = serving(port)
        try:
            assert server.stdout is not None and f":{port}/v1" in server.stdout.readline()
            assert status(port) == "200"
            said = serving(port).communicate(timeout=120)[1]
            assert "serves already" in said, said
            assert status(port) == "200"
        finally:
            server.terminate()
            said = server.communicate(timeout=120)
            assert server.returncode == 0, said
    assert not status(18702)
    command = [*cluster.entering(0), sys.executable, "-c", OTHERS]
    with subprocess.Popen(command, env=environment(cluster), text=True, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "ready\n"
            refused = serving(18703)
            said = refused.communicate(timeout=120)[1]
            assert refused.returncode == 1 and "listens on 127.0.0.1:18700" in said, said
        finally:
            done = python(cluster, "-c", "from ray import serve; serve.shutdown()", node=0)
            other.terminate()
    assert done.returncode == 0, done.stderr


def test_a_deployed_application_goes_on_while_model_and_settings_change(
    cluster: LocalCluster, folder: Path, tmp_path: Path
) -> None:
    file, log, stop = tmp_path / "app.yaml", tmp_path / "answers", tmp_path / "stop"
    model = load_model(folder / "tiny")
    with torch.no_grad():
        model.model.norm.weight.mul_(0.5)
    for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json"):
        if (folder / "tiny" / name).exists():
            (folder / "second").mkdir(exist_ok=True)
            (folder / "second" / name).write_bytes((folder / "tiny" / name).read_bytes())
    model.save_pretrained(folder / "second")
    words = [
        "compute.dtype=float32",
        "engine.threads=1",
        "replicas.min=2",
        "replicas.max=2",
        "replicas.cpus=3",
    ]
    keys = f"access.keys={tmp_path / 'keys.json'}"
    done = python(
        cluster, "-m", "codex_ray", "serve", str(folder / "tiny"), *words, keys, "--write-config", str(file)
    )
    assert done.returncode == 0, done.stderr
    deploy(cluster, file)
    command = [*cluster.entering(0), sys.executable, "-c", ASKING, str(stop), str(log)]
    asking = [subprocess.Popen(command, cwd=ROOT, env=environment(cluster)) for _ in range(2)]
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while not [one for one in answers(log, 0) if isinstance(one, list)]:
            assert time.monotonic() < deadline, answers(log, 0)[-3:]
            time.sleep(0.5)
        before = wait_for_answers(log, 6)
        assert len({str(one) for one in before}) == 1 and isinstance(before[0], list)
        assert python(cluster, "-c", WHERE).stdout.strip() == "2"
        start = time.time()
        done = python(cluster, "-m", "codex_ray", "serve", "update", str(folder / "second"))
        assert done.returncode == 0, done.stderr
        time.sleep(1)
        after = wait_for_answers(log, 6)
        assert len({str(one) for one in after}) == 1 and after[0] != before[0]
        # Other settings, by Ray's own rolling update: replicas begin anew, with the file's model.
        config = yaml.safe_load(file.read_text())
        config["applications"][0]["args"]["engine"]["slots"] = 3
        file.write_text(yaml.safe_dump(config))
        deploy(cluster, file)
        deadline = time.monotonic() + WAIT_SECONDS
        while wait_for_answers(log, 4)[-1] != before[0]:
            assert time.monotonic() < deadline
        found = {str(one) for one in answers(log, start)}
        assert found == {str(before[0]), str(after[0])}, found
    finally:
        stop.touch()
        for process in asking:
            process.wait(150)
