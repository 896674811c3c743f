"""Clients, each of which asks one thing after the other, and what they see of time."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.samplers.work import POSITIONS, Work
from codex_ray.config.common import Device
from codex_ray.config.fields import to_dict
from codex_ray.config.serve import Engine, Serve
from codex_ray.errors import CodexRayError
from codex_ray.serve.calls import Call
from codex_ray.serve.events import Delta, Failed
from codex_ray.serve.model_server import ModelServer
from codex_ray.tokenizer import Tokenizer

REQUEST_SECONDS = 240
SECONDS, CLIENTS = 10.0, 16


@dataclass
class Asked:
    """Seconds to first texts and between later ones, tokens, and seconds in all."""

    firsts: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        first, gap = statistics.median(self.firsts) * 1e3, statistics.median(self.gaps) * 1e3
        return f"first {first:.1f} ms, then {gap:.2f} ms, {self.tokens / self.seconds:,.0f} tokens/s"


Stream = Callable[[int], AsyncIterator[tuple[bool, int]]]
"""The events of one request; whether each has text, and tokens drawn so far where it says so."""


async def _ask(stream: Stream, work: Work, count: int) -> Asked:
    """Have so many clients go through the work."""
    asked, waiting = Asked(), list(range(len(work.prompts)))[::-1]

    async def client() -> None:
        while waiting:
            last = begun = time.perf_counter()
            drawn = 0
            async for text, tokens in stream(waiting.pop()):
                drawn = max(drawn, tokens)
                if text:
                    now = time.perf_counter()
                    (asked.firsts if last == begun else asked.gaps).append(now - last)
                    last = now
            asked.tokens += drawn

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(count)))
    asked.seconds = time.perf_counter() - began
    return asked


def ask_engine(folder: Path, warm: Work, work: Work, count: int) -> Asked:
    """Ask a replica's engine, in this process."""
    server = ModelServer(
        to_dict(
            Serve(
                model=str(folder),
                compute=Device(device="cpu", dtype="bfloat16"),
                engine=Engine(slots=count, threads=2, max_tokens=POSITIONS),
            )
        )
    )

    def stream_of(work: Work) -> Stream:
        async def stream(number: int) -> AsyncIterator[tuple[bool, int]]:
            call = Call(prompts=[work.prompts[number]], max_tokens=work.lengths[number], stream=True)
            async for events in server.generate(call):
                for one in events:
                    if isinstance(one, Failed):
                        raise CodexRayError(str(one.error))
                    if isinstance(one, Delta):
                        yield bool(one.text), one.tokens

        return stream

    async def run() -> Asked:
        await _ask(stream_of(warm), warm, count)
        return await _ask(stream_of(work), work, count)

    try:
        return asyncio.run(run())
    finally:
        server.close(0)


def ask_server(url: str, model: str, tokenizer: Tokenizer, work: Work, count: int) -> Asked:
    """Ask a server over HTTP."""

    async def run() -> Asked:
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:

            async def stream(number: int) -> AsyncIterator[tuple[bool, int]]:
                body = {
                    "model": model,
                    "prompt": tokenizer.decode(work.prompts[number][1:]),
                    "max_tokens": work.lengths[number],
                    "temperature": 1.0,
                    "top_p": 1.0,
                    "stream": True,
                    "stream_options": {"include_usage": True},
                }
                async with session.post(f"{url}/v1/completions", json=body) as answer:
                    if answer.status != 200:
                        raise CodexRayError(f"{url} answered {answer.status}: {await answer.text()}")
                    async for line in answer.content:
                        if line.startswith(b"data: {"):
                            event = json.loads(line[6:])
                            text = bool((event.get("choices") or [{}])[0].get("text"))
                            yield text, (event.get("usage") or {}).get("completion_tokens", 0)

            return await _ask(stream, work, count)

    return asyncio.run(run())


def one_token_requests(url: str, body: dict[str, Any]) -> tuple[float, str]:
    """Requests per second of so many clients for some seconds, and an answer."""

    async def run() -> tuple[float, str]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def ask() -> str:
                async with session.post(f"{url}/v1/completions", json=body) as answer:
                    if answer.status != 200:
                        raise CodexRayError(f"{url} answered {answer.status}: {await answer.text()}")
                    return str(await answer.text())

            async def client(end: float) -> int:
                done = 0
                while time.perf_counter() < end:
                    await ask()
                    done += 1
                return done

            await asyncio.gather(*(client(time.perf_counter() + 1) for _ in range(CLIENTS)))
            began = time.perf_counter()
            done = sum(await asyncio.gather(*(client(began + SECONDS) for _ in range(CLIENTS))))
            return done / (time.perf_counter() - began), await ask()

    return asyncio.run(run())
