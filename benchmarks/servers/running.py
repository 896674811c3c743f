"""Servers in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codex_ray.cluster.ray_node import free_ports
from codex_ray.errors import CodexRayError

START_SECONDS = 180

_BARE = """
import sys, uvicorn, fastapi
app, answer = fastapi.FastAPI(), open(sys.argv[1], "rb").read()
@app.get("/ready")
async def ready(): return {}
@app.post("/v1/completions")
async def completions(request: fastapi.Request):
    await request.json()
    return fastapi.Response(answer, media_type="application/json")
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error")
"""


@contextmanager
def our_server(model: Path, folder: Path, settings: list[str]) -> Iterator[str]:
    """Run ``codex-ray serve``; its address."""
    port = free_ports(1)[0]
    words = [
        str(model),
        "name=model",
        f"port={port}",
        "compute.device=cpu",
        "compute.dtype=bfloat16",
        "engine.threads=2",
    ]
    command = [sys.executable, "-m", "codex_ray", "serve", *words, f"access.keys={folder / 'keys.json'}"]
    with _running([*command, *settings], port, folder / "serve.log") as url:
        yield url


@contextmanager
def bare_app(answer: str, folder: Path) -> Iterator[str]:
    """Run an application that gives one answer to everybody; its address."""
    port, file = free_ports(1)[0], folder / "answer.json"
    file.write_text(answer)
    with _running([sys.executable, "-c", _BARE, str(file), str(port)], port, folder / "bare.log") as url:
        yield url


@contextmanager
def _running(command: list[str], port: int, log: Path) -> Iterator[str]:
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=dict(os.environ))
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise CodexRayError(f"the server did not start: {log.read_text()[-600:]}")
            time.sleep(0.3)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
