"""From the endpoint to training and back: what a user prefers is kept, learnt, and answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest

from codex_ray.config.common import Device
from codex_ray.config.fields import to_dict
from codex_ray.config.finetune import Loss
from codex_ray.config.serve import Access, Engine, Serve
from codex_ray.config.train import DeepSpeed, Lora, Optimizer, Training
from codex_ray.serve.front import Front
from codex_ray.serve.model_server import ModelServer
from codex_ray.serve.routes import build_app
from codex_ray.train.finetune import finetune
from tests.integration.test_finetune import LENGTH, PAIRS, ours, settings, tokenizer
from tests.unit.serve.conftest import Running

__all__ = ["ours", "tokenizer"]
pytestmark = [pytest.mark.integration, pytest.mark.verify]
ASKED = [prompt for prompt, _ in PAIRS[:40]]
BETTER = "return i"


@contextmanager
def serving(model: Path, folder: Path, **changes: Any) -> Iterator[tuple[openai.OpenAI, str]]:
    own = Serve(
        model=str(model),
        name="chat",
        compute=Device(device="cpu", dtype="float32"),
        engine=Engine(slots=4, threads=1),
        access=Access(keys=str(folder / "keys.json")),
        feedback=str(folder / "preferences.jsonl"),
    )
    own = replace(own, **changes)
    server = ModelServer(to_dict(own))
    running = Running(build_app(Front(own, {"chat": server})))
    try:
        yield openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0), running.url
    finally:
        running.stop()
        server.close(0)


def likelihood(client: openai.OpenAI, url: str, model: str, question: str, answer: str) -> float:
    """The log-probability of an answer to a question, as the endpoint says it."""
    asked = {"model": model, "messages": [{"role": "user", "content": question}]}
    ids = httpx.post(f"{url}/tokenize", json=asked).json()["tokens"]
    more = httpx.post(f"{url}/tokenize", json={"model": model, "prompt": answer}).json()["tokens"]
    own = [one for one in more if one != 1]
    logprobs = (
        client.completions.create(model=model, prompt=[[*ids, *own]], max_tokens=0, echo=True, logprobs=0)
        .choices[0]
        .logprobs
    )
    assert logprobs and logprobs.token_logprobs
    return sum(logprobs.token_logprobs[len(ids) :])


def test_what_is_preferred_at_the_endpoint_is_what_the_next_model_prefers(ours: Path, tmp_path: Path) -> None:
    rejected = {}
    with serving(ours, tmp_path) as (client, url):
        assert httpx.get(f"{url}/v1/feedback").json() == {"kept": True}
        for place, question in enumerate(ASKED):
            messages: Any = [{"role": "user", "content": question}]
            answer = client.chat.completions.create(model="chat", messages=messages, max_tokens=2, seed=place)
            rejected[question] = answer.choices[0].message.content or "?"
            body = {
                "model": "chat",
                "messages": messages,
                "chosen": BETTER,
                "rejected": rejected[question],
                "how": "edited",
                "consent": True,
            }
            if not rejected[question].strip():
                continue
            assert httpx.post(f"{url}/v1/feedback", json=body).status_code == 200
        before = likelihood(client, url, "chat", ASKED[0], BETTER)
        margin = before - likelihood(client, url, "chat", ASKED[0], rejected[ASKED[0]])
    run = finetune(
        settings(
            ours, tmp_path / "preferences.jsonl", tmp_path, "preferred", method="dpo", loss=Loss(beta=0.5),
            train=Training(steps=20, batch_tokens=4 * LENGTH), lora=Lora(rank=4),
            optimizer=Optimizer(learning_rate=1e-2, weight_decay=0.0), deepspeed=DeepSpeed(stage=1),
        )
    ).run  # fmt: skip
    # Served merged, and beside its base as an adapter: alike, and both prefer what was preferred.
    with serving(run, tmp_path) as (client, url):
        after = likelihood(client, url, "chat", ASKED[0], BETTER)
        worse = likelihood(client, url, "chat", ASKED[0], rejected[ASKED[0]])
    with serving(ours, tmp_path, adapters=str(tmp_path)) as (client, url):
        assert "preferred" in [one.id for one in client.models.list()]
        beside = likelihood(client, url, "preferred", ASKED[0], BETTER)
        assert likelihood(client, url, "chat", ASKED[0], BETTER) == pytest.approx(before, abs=1e-3)
    assert after > before + 1 and after - worse > margin + 1
    assert beside == pytest.approx(after, abs=1e-2)
