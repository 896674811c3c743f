"""``codex-ray serve`` as its user runs it, and the same application by Ray's own command."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import psutil
import pytest
import torch

from codex_ray.model import load_model
from tests.unit.rollout.models import llama, train_small_tokenizer

pytestmark = pytest.mark.integration
START_SECONDS = 240.0
HI: Any = [{"role": "user", "content": "hi"}]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of random weights, 64 positions."""
    folder = tmp_path_factory.mktemp("served")
    tokenizer = train_small_tokenizer(folder / "tokenizer")
    llama(tokenizer.vocabulary_size).save_pretrained(folder / "tiny")
    tokenizer.save(folder / "tiny")
    return folder


class Server:
    """A command that serves, in a process of its own."""

    def __init__(self, folder: Path, port: int, command: list[str], certificate: Path | None = None) -> None:
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{port}"
        self._trust = ssl.create_default_context(cafile=str(certificate)) if certificate else True
        self._log = folder / f"serve-{port}.log"
        environment = {**os.environ, "HOME": str(folder), "RAY_SERVE_LOG_TO_STDERR": "0"}
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                if httpx.get(f"{self.url}/ready", timeout=5, verify=self._trust).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.2)

    def said(self) -> str:
        return self._log.read_text()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(30)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    port = free_port()
    words = [str(folder / "tiny"), f"port={port}", "compute.device=cpu", "compute.dtype=float32"]
    words += ["engine.slots=4", "engine.queue=4", f"guarding.audit={folder / 'audit.jsonl'}"]
    one = Server(folder, port, [sys.executable, "-m", "codex_ray", "serve", *words])
    try:
        one.wait()
        yield one
    finally:
        one.end()


def test_a_server_answers_the_real_client_and_ends_with_its_requests(server: Server, folder: Path) -> None:
    strict = openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    )
    assert [model.id for model in strict.models.list()] == ["tiny"]
    settings: Any = {"model": "tiny", "messages": HI, "max_tokens": 12, "seed": 7}
    whole = strict.chat.completions.create(**settings)
    streamed = [*strict.chat.completions.create(**settings, stream=True)]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
    assert text == whole.choices[0].message.content and streamed[0].choices[0].delta.role == "assistant"
    with pytest.raises(openai.BadRequestError, match="shorten the prompt"):
        strict.completions.create(model="tiny", prompt="a" * 500)
    with pytest.raises(openai.NotFoundError):
        strict.completions.create(model="other", prompt="a")

    overloaded(server)
    vanished(server)
    ending(server)
    assert server.said().count("answers at") == 1 and "Traceback" not in server.said(), server.said()
    assert '"outcome": "ok"' in (folder / "audit.jsonl").read_text()


def overloaded(server: Server) -> None:
    """Far more than there is room for: answered, or told when to come again; and fine afterwards."""

    async def run() -> list[int]:
        client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)

        async def ask(seed: int) -> int:
            try:
                await client.completions.create(model="tiny", prompt="a", max_tokens=50, seed=seed)
            except openai.APIStatusError as error:
                assert int(error.response.headers["retry-after"]) >= 1
                return error.status_code
            return 200

        found = list(await asyncio.gather(*(ask(seed) for seed in range(60))))
        return [*found, await ask(0)]

    statuses = asyncio.run(run())
    assert set(statuses) == {200, 503} and statuses[-1] == 200 and statuses.count(200) >= 8


def vanished(server: Server) -> None:
    """Clients that go in the middle of a stream free their places."""
    body = {"model": "tiny", "messages": HI, "stream": True, "n": 4, "logit_bias": {"2": -100}}
    for _ in range(4):
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200
            next(answer.iter_raw())
    deadline = time.monotonic() + 20
    while 'num_requests_running{model_name="tiny"} 0.0' not in httpx.get(f"{server.url}/metrics").text:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def ending(server: Server) -> None:
    """Ctrl-C: what is in work ends well, new requests are told to go, no process stays."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    settings: Any = {"model": "tiny", "prompt": ["a"] * 8, "max_tokens": 60, "logit_bias": {"2": -100}}
    stream = client.completions.create(**settings, stream=True)
    next(iter(stream))
    reasons: list[str] = []

    def read() -> None:
        for chunk in stream:
            reasons.extend(choice.finish_reason for choice in chunk.choices if choice.finish_reason)

    reader = threading.Thread(target=read)
    reader.start()
    server.process.send_signal(signal.SIGINT)
    reader.join(60)
    assert reasons == ["length"] * 8
    assert server.process.wait(60) == 0, server.said()
    deadline = time.monotonic() + 30
    while alive := [one for one in children if one.is_running()]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)


@pytest.mark.verify
def test_the_model_is_changed_under_load_and_stays_so_when_replicas_are_lost(folder: Path) -> None:
    """Two replicas; every request is answered, none by a model that is half there."""
    port = free_port()
    model = load_model(folder / "tiny")
    for name, change in (("second", 0.5), ("broken", float("nan"))):
        with torch.no_grad():
            model.model.norm.weight.mul_(change)
        model.save_pretrained(folder / name)
        shutil.copytree(folder / "tiny", folder / name, dirs_exist_ok=True, ignore=lambda _, names: [
            one for one in names if one.endswith(".safetensors")])  # fmt: skip
    words = [str(folder / "tiny"), f"port={port}", "compute.dtype=float32", "replicas.max=2"]
    words += ["replicas.min=2", "engine.threads=1", "replicas.cpus=0.5"]
    one = Server(folder, port, [sys.executable, "-m", "codex_ray", "serve", *words])
    asked: Any = {"model": "tiny", "prompt": "a", "max_tokens": 20, "temperature": 0, "logprobs": 0}
    stop, seen, failed = threading.Event(), list[tuple[float, ...]](), list[str]()

    def ask() -> None:
        client = openai.OpenAI(base_url=f"{one.url}/v1", api_key="none", max_retries=8, timeout=120)
        while not stop.is_set():
            try:
                logprobs = client.completions.create(**asked).choices[0].logprobs
                assert logprobs and logprobs.token_logprobs
                seen.append(tuple(round(value, 3) for value in logprobs.token_logprobs))
            except (openai.OpenAIError, AssertionError) as error:
                failed.append(str(error))

    def update(name: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "codex_ray",
            "serve",
            "update",
            str(folder / name),
            f"address={address}",
        ]
        environment = {**os.environ, "HOME": str(folder)}
        return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    try:
        one.wait()
        deadline = time.monotonic() + 60
        while "address=" not in one.said():  # the last line of its greeting
            assert time.monotonic() < deadline
            time.sleep(0.1)
        address = one.said().split("address=")[1].split()[0]
        for thread in threads:
            thread.start()
        refused = update("broken")
        assert refused.returncode == 1 and "not finite" in refused.stderr, refused.stderr
        before = set(seen)
        assert len(before) == 1
        done = update("second")
        assert done.returncode == 0 and "tiny is" in done.stdout, done.stderr
        seen.clear()
        deadline = time.monotonic() + 60
        while len(seen) < 12:
            assert time.monotonic() < deadline and not failed
            time.sleep(0.1)
        after = set(seen[6:])
        assert len(after) == 1 and after != before
        kill_models(one)
        deadline = time.monotonic() + 120
        count = len(seen)
        while len(seen) < count + 12:
            assert time.monotonic() < deadline, failed
            time.sleep(0.1)
        assert set(seen[count + 6 :]) == after and not failed
    finally:
        stop.set()
        for thread in threads:
            thread.join(150)
        one.end()


@pytest.mark.verify
def test_rays_own_command_takes_the_written_yaml(folder: Path) -> None:
    port = free_port()
    file = folder / "app.yaml"
    words = [sys.executable, "-m", "codex_ray", "serve", str(folder / "tiny"), f"port={port}", "name=by-ray"]
    done = subprocess.run([*words, "--write-config", str(file)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    one = Server(folder, port, [str(Path(sys.executable).parent / "serve"), "run", str(file)])
    try:
        one.wait()
        client = openai.OpenAI(base_url=f"{one.url}/v1", api_key="none", max_retries=0)
        assert [model.id for model in client.models.list()] == ["by-ray"]
        assert client.completions.create(model="by-ray", prompt="a", max_tokens=3).usage
    finally:
        one.end()


def kill_models(server: Server) -> None:
    for process in psutil.Process(server.process.pid).children(recursive=True):
        if "ServeReplica:codex_ray:model" in " ".join(process.cmdline()):
            process.kill()


@pytest.mark.verify
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_killed_replica_is_replaced_and_its_requests_are_told_to_try_again(
    folder: Path, replicas: int
) -> None:
    """With replicas of their own the front lives on and says so; alone, the connection breaks."""
    port = free_port()
    words = [str(folder / "tiny"), f"port={port}", "compute.dtype=float32", "engine.threads=1"]
    words += [f"replicas.min={replicas}", f"replicas.max={replicas}", "replicas.cpus=0.5"]
    one = Server(folder, port, [sys.executable, "-m", "codex_ray", "serve", *words])
    told = "try again" if replicas > 1 else "Connection error"
    try:
        one.wait()
        client = openai.OpenAI(base_url=f"{one.url}/v1", api_key="none", max_retries=0, timeout=60)
        settings: Any = {"model": "tiny", "prompt": ["a"] * 32, "max_tokens": 60, "logit_bias": {"2": -100}}
        stream = client.completions.create(**settings, stream=True)
        next(iter(stream))
        kill_models(one)
        with pytest.raises(openai.APIError, match=told):
            for _ in stream:
                pass
        patient = openai.OpenAI(base_url=f"{one.url}/v1", api_key="none", max_retries=20, timeout=60)
        assert patient.completions.create(model="tiny", prompt="a", max_tokens=3).usage
    finally:
        one.end()
