"""Adapters by model name, live; and one model taking over from another while requests are under way."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from codex_ray.config.fields import to_dict
from codex_ray.config.serve import Engine, Serve
from codex_ray.model import load_model
from codex_ray.serve.calls import Call
from codex_ray.serve.events import Delta, End, Failed
from codex_ray.serve.front import Front
from codex_ray.serve.model_server import ModelServer
from codex_ray.serve.routes import build_app
from codex_ray.serve.shelf import Shelf
from tests.unit.rollout.test_lora import save_adapter
from tests.unit.serve.conftest import Running

DRAWN: Any = {"prompt": "def f(", "max_tokens": 12, "temperature": 0, "logprobs": 0}


@pytest.fixture(scope="module")
def shelf(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapters, one of them in a run's folder."""
    folder, base = tmp_path_factory.mktemp("adapters"), load_model(model_folder)
    save_adapter(base, folder / "polite", 1)
    save_adapter(base, folder / "rude" / "model", 2)
    (folder / "nothing").mkdir()
    return folder


@pytest.fixture(scope="module")
def adapted(settings: Serve, shelf: Path) -> Iterator[tuple[Serve, ModelServer]]:
    own = replace(settings, adapters=str(shelf), engine=replace(settings.engine, adapters=1))
    server = ModelServer(to_dict(own))
    yield own, server
    server.close(0)


def test_adapters_are_models_by_name(
    adapted: tuple[Serve, ModelServer], shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codex_ray.serve.shelf.LOOK_SECONDS", 0.0)
    own, server = adapted
    running = Running(build_app(Front(own, {"tiny": server})))
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
    try:
        assert [one.id for one in client.models.list()] == ["tiny", "polite", "rude"]
        assert client.models.retrieve("rude").parent == "tiny"  # type: ignore[attr-defined]
        first = {name: _logprobs(client, name) for name in ("tiny", "polite", "rude")}
        assert len({tuple(values) for values in first.values()}) == 3
        # One is kept in memory, so each was read again; and all at once they are what they are alone.
        assert len(server._loaded._adapters) == 1
        results: dict[str, list[float]] = {}
        threads = [
            threading.Thread(target=lambda name=name: results.update({name: _logprobs(client, name)}))
            for name in first
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for name, values in first.items():
            assert results[name] == pytest.approx(values, abs=1e-3)
        _echo_and_embeddings(client)
        # Live: one comes, one changes, one goes.
        shutil.copytree(shelf / "polite", shelf / "later")
        assert _logprobs(client, "later") == pytest.approx(first["polite"], abs=1e-3)
        shutil.rmtree(shelf / "later")
        with pytest.raises(openai.NotFoundError):
            _logprobs(client, "later")
        for name in ("nothing", "../adapters/polite", "polite/../rude", "."):
            with pytest.raises(openai.NotFoundError):
                _logprobs(client, name)
    finally:
        running.stop()


def _logprobs(client: openai.OpenAI, model: str) -> list[float]:
    logprobs = client.completions.create(model=model, **DRAWN).choices[0].logprobs
    assert logprobs and logprobs.token_logprobs
    return logprobs.token_logprobs


def _echo_and_embeddings(client: openai.OpenAI) -> None:
    """What is computed beside sampling has the adapter, too."""
    asked: Any = {"prompt": "def f(", "max_tokens": 0, "echo": True, "logprobs": 0}
    scored = {}
    for name in ("tiny", "rude", "tiny"):
        logprobs = client.completions.create(model=name, **asked).choices[0].logprobs
        assert logprobs and logprobs.token_logprobs
        scored.setdefault(name, []).append(logprobs.token_logprobs[1:])
    assert scored["tiny"][0] == scored["tiny"][1] != scored["rude"][0]
    vectors = [client.embeddings.create(model=name, input="a").data[0].embedding for name in scored]
    assert vectors[0] != vectors[1]


def test_a_damaged_adapter_is_told_and_harms_nobody(
    adapted: tuple[Serve, ModelServer], shelf: Path, tmp_path: Path
) -> None:
    own, server = adapted
    shutil.copytree(shelf / "polite", shelf / "bad")
    (shelf / "bad" / "adapter_model.safetensors").write_bytes(b"bad")

    async def ask(adapter: str | None) -> Any:
        return [
            events async for events in server.generate(Call(prompts=["a"], adapter=adapter, max_tokens=2))
        ]

    server._loaded._shelf = Shelf(own.adapters)
    (failed,) = asyncio.run(ask("bad"))[-1]
    assert isinstance(failed, Failed) and failed.error.status == 400 and "damaged" in failed.error.message
    assert any(isinstance(one, End) for one in asyncio.run(ask(None))[-1])
    shutil.rmtree(shelf / "bad")


def test_another_model_takes_over_and_requests_end_as_they_began(
    settings: Serve, model_folder: Path, tmp_path: Path
) -> None:
    other, broken = tmp_path / "other", tmp_path / "broken"
    for folder, change in ((other, 0.5), (broken, float("nan"))):
        shutil.copytree(model_folder, folder)
        model = load_model(model_folder)
        with torch.no_grad():
            model.model.norm.weight.mul_(change)
        model.save_pretrained(folder)
    server = ModelServer(to_dict(replace(settings, engine=Engine(slots=4, queue=4, threads=1))))
    call = Call(prompts=["def f("], max_tokens=40, temperature=0.0, top=0, stream=True, bias={2: -100.0})

    async def ask() -> list[float]:
        found = []
        async for events in server.generate(call):
            found += [entry.logprob for one in events if isinstance(one, Delta) for entry in one.entries]
        return [one for one in found if one is not None]

    async def run() -> None:
        before = await ask()
        under_way = asyncio.create_task(ask())
        await asyncio.sleep(0)
        assert "not finite" in str(await server.prepare(str(broken)))
        assert await server.prepare(str(tmp_path / "missing")) is not None
        assert (await server.stand())["source"] == settings.model
        assert await server.prepare(str(other)) is None
        held = asyncio.create_task(ask())
        await asyncio.sleep(0.05)
        await server.commit()
        after = await ask()
        assert (await server.stand())["source"] == str(other)
        assert await under_way == await held == before != after
        await server.discard()
        assert await ask() == after

    try:
        asyncio.run(run())
    finally:
        server.close(0)
