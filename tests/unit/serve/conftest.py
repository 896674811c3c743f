"""A small model behind the routes, without Ray: the real engine and the real ``openai`` client."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from codex_ray.config.common import Device
from codex_ray.config.fields import to_dict
from codex_ray.config.serve import Access, Engine, Serve
from codex_ray.serve.front import Front
from codex_ray.serve.model_server import ModelServer
from codex_ray.serve.routes import build_app
from tests.unit.rollout.models import llama, train_small_tokenizer


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of random weights over 400 pieces of Python; 64 positions."""
    folder = tmp_path_factory.mktemp("served")
    tokenizer = train_small_tokenizer(folder / "tokenizer")
    model = llama(tokenizer.vocabulary_size)
    model.save_pretrained(folder / "tiny")
    tokenizer.save(folder / "tiny")
    return folder / "tiny"


@pytest.fixture(scope="session")
def settings(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Serve:
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    return Serve(
        model=str(model_folder),
        name="tiny",
        compute=Device(device="cpu", dtype="float32"),
        engine=Engine(slots=4, queue=4, request_seconds=20.0, threads=1),
        access=Access(keys=str(keys)),
    )


@pytest.fixture(scope="session")
def model_server(settings: Serve) -> Iterator[ModelServer]:
    server = ModelServer(to_dict(settings))
    yield server
    server.close(0)


class Running:
    """Routes listening on a port of this machine."""

    def __init__(self, app: Any) -> None:
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._server.serve(sockets=[listening])), daemon=True
        )
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self._server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)


@pytest.fixture
def serve_with(settings: Serve, model_server: ModelServer) -> Iterator[Callable[..., Running]]:
    """Start routes with some settings of their own."""
    started: list[Running] = []

    def start(**changes: Any) -> Running:
        front = Front(replace(settings, **changes), {"tiny": model_server})
        started.append(Running(build_app(front)))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture(scope="module")
def url(settings: Serve, model_server: ModelServer) -> Iterator[str]:
    running = Running(build_app(Front(settings, {"tiny": model_server})))
    yield running.url
    running.stop()
