"""Everybody's clients against one running server: two models, HTTPS, API keys."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
import torch

from codex_ray.model import load_model
from codex_ray.serve.keys import KeyFile
from tests.browser import browser
from tests.integration.test_serve import Server, folder, free_port

__all__ = ["folder"]
pytestmark = [pytest.mark.integration, pytest.mark.verify, pytest.mark.timeout(600)]
PROMPT, CHOICES = "def f(x):\n    return", [" x", " None", "!!"]


@dataclass
class Secure:
    """A server by HTTPS, the certificate that vouches for it, and a key."""

    url: str
    certificate: Path
    key: str
    said: Callable[[], str]

    def settings(self, kind: Any) -> dict[str, Any]:
        """What OpenAI's clients are given."""
        trust = ssl.create_default_context(cafile=str(self.certificate))
        client = kind(verify=trust, timeout=60)
        return {"base_url": f"{self.url}/v1", "api_key": self.key, "http_client": client}


@pytest.fixture(scope="module")
def secure(folder: Path) -> Iterator[Secure]:
    model = load_model(folder / "tiny")
    with torch.no_grad():
        model.model.norm.weight.mul_(0.5)
    for file in (folder / "tiny").iterdir():
        (folder / "small").mkdir(exist_ok=True)
        (folder / "small" / file.name).write_bytes(file.read_bytes())
    model.save_pretrained(folder / "small")
    certificate, private = folder / "certificate.pem", folder / "key.pem"
    made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=here"
    command = [*made.split(), "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", str(private), "-out", str(certificate)], check=True, timeout=30)
    _, key = KeyFile(str(folder / "keys.json")).add("tester")
    port = free_port()
    words = [str(folder / "tiny"), f"models={{small: {folder / 'small'}}}", f"port={port}"]
    words += [f"tls.certificate={certificate}", f"tls.key={private}", f"access.keys={folder / 'keys.json'}"]
    words += [
        "compute.dtype=float32",
        "engine.threads=1",
        "engine.slots=4",
        "replicas.cpus=0.5",
        "dashboard=true",
    ]
    one = Server(folder, port, [sys.executable, "-m", "codex_ray", "serve", *words], certificate)
    try:
        one.wait()
        yield Secure(one.url, certificate, key, one.said)
    finally:
        one.end()


def test_openais_client_is_answered_by_both_models(secure: Secure) -> None:
    strict = openai.OpenAI(**secure.settings(httpx.Client), max_retries=0, _strict_response_validation=True)
    assert [model.id for model in strict.models.list()] == ["tiny", "small"]
    asked: Any = {"prompt": PROMPT, "max_tokens": 8, "temperature": 0, "logprobs": 1}
    told = {}
    for name in ("tiny", "small"):
        choice = strict.completions.create(model=name, **asked).choices[0]
        assert choice.logprobs and choice.logprobs.token_logprobs
        told[name] = choice.logprobs.token_logprobs
        # Of a stream's chunks the package's own type demands a reason, which only the last one has.
        lenient = openai.OpenAI(**secure.settings(httpx.Client), max_retries=0)
        streamed = [*lenient.completions.create(model=name, **asked, stream=True)]
        assert "".join(chunk.choices[0].text for chunk in streamed) == choice.text
    assert told["tiny"] != told["small"]
    with pytest.raises(openai.NotFoundError):
        strict.completions.create(model="third", prompt="a")
    with pytest.raises(openai.AuthenticationError):
        strict.with_options(api_key="crk-none").models.list()
    with pytest.raises(openai.APIConnectionError):
        openai.OpenAI(base_url=f"{secure.url}/v1", api_key=secure.key, max_retries=0).models.list()


def test_the_asynchronous_client_tries_again_until_there_is_room(secure: Secure) -> None:
    async def run() -> list[str | None]:
        client = openai.AsyncOpenAI(**secure.settings(httpx.AsyncClient), max_retries=20)

        async def ask(seed: int) -> str | None:
            stream = await client.chat.completions.create(
                model=("tiny", "small")[seed % 2],
                messages=[{"role": "user", "content": "hi"}],
                max_tokens=20,
                seed=seed,
                stream=True,
            )
            return [chunk.choices[0].finish_reason async for chunk in stream][-1]

        return list(await asyncio.gather(*(ask(seed) for seed in range(48))))

    assert set(asyncio.run(run())) <= {"stop", "length"}


def test_curl(secure: Secure) -> None:
    body = json.dumps({"model": "small", "prompt": PROMPT, "max_tokens": 4, "stream": True})
    curl = ["curl", "-sS", "--max-time", "60", "--cacert", str(secure.certificate)]
    headers = ["-H", f"Authorization: Bearer {secure.key}", "-H", "Content-Type: application/json"]
    command = [*curl, *headers, "-d", body, f"{secure.url}/v1/completions"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    lines = [line for line in done.stdout.splitlines() if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    done = subprocess.run([*curl, f"{secure.url}/v1/models"], capture_output=True, text=True, timeout=90)
    assert json.loads(done.stdout)["error"]["code"] == "invalid_api_key"


def test_lm_evaluation_harness_measures_through_both_routes(
    secure: Secure, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"q": PROMPT, "choices": CHOICES, "a": 0}) + "\n")
    task: dict[str, Any] = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        "doc_to_text": "{{q}}",
    }
    choosing = task | {"task": "choosing", "output_type": "multiple_choice", "doc_to_choice": "{{choices}}"}
    choosing |= {"doc_to_target": "a", "metric_list": [{"metric": "acc"}]}
    writing = task | {"task": "writing", "output_type": "generate_until", "doc_to_target": "x"}
    writing |= {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False}}
    writing |= {"metric_list": [{"metric": "exact_match"}]}
    monkeypatch.setenv("OPENAI_API_KEY", secure.key)
    monkeypatch.setenv(
        "REQUESTS_CA_BUNDLE", str(secure.certificate)
    )  # its ca_cert_path is for a remote tokenizer
    common = {"model": "tiny", "max_length": 64}

    def evaluate(kind: str, route: str, tasks: list[Any], **more: Any) -> dict[str, Any]:
        found = simple_evaluate(
            model=kind,
            model_args={**common, "base_url": f"{secure.url}/v1/{route}", **more},
            tasks=tasks,
            task_manager=TaskManager(include_defaults=False),
            bootstrap_iters=0,
            apply_chat_template="chat" in route,
        )
        assert found is not None
        return dict(found["samples"])

    samples = evaluate(
        "local-completions",
        "completions",
        [choosing, writing],
        tokenizer=str(folder / "tiny"),
    )
    told = [float(pair[0]) for pair in samples["choosing"][0]["filtered_resps"]]
    assert told == pytest.approx([_likelihood(folder / "tiny", choice) for choice in CHOICES], abs=1e-4)
    assert isinstance(samples["writing"][0]["filtered_resps"][0], str)
    samples = evaluate("local-chat-completions", "chat/completions", [writing])
    assert isinstance(samples["writing"][0]["filtered_resps"][0], str)


def _likelihood(folder: Path, choice: str) -> float:
    """What the model itself says of a continuation of the prompt, in the tokens that the harness makes."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    whole = tokenizer(f"{PROMPT} {choice}", add_special_tokens=False).input_ids
    context = len(tokenizer(PROMPT, add_special_tokens=False).input_ids)
    with torch.no_grad():
        logs_SV = load_model(folder)(torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(float(logs_SV[place - 1, whole[place]]) for place in range(context, len(whole)))


def test_rays_dashboard_shows_the_application(secure: Secure, folder: Path) -> None:
    found = re.search(r"(http://\S+/)#/serve", secure.said())
    assert found, secure.said()
    token = (folder / ".ray" / "auth_token").read_text().strip()
    with browser() as page:
        page.call("Network.setExtraHTTPHeaders", headers={"Authorization": f"Bearer {token}"})
        page.size(1200, 800)
        page.open(f"{found[1]}#/serve")
        page.wait("document.body.innerText.includes('codex_ray')")
        page.open(f"{found[1]}#/serve/applications/codex_ray")
        page.wait("['front', 'model', 'model-1'].every(name => document.body.innerText.includes(name))")
        page.screenshot(folder / "dashboard.png")


def test_langchain(secure: Secure) -> None:
    from langchain_openai import ChatOpenAI, OpenAI

    trust = ssl.create_default_context(cafile=str(secure.certificate))
    given: Any = {"base_url": f"{secure.url}/v1", "api_key": secure.key, "max_tokens": 8}
    given["http_client"] = httpx.Client(verify=trust)
    chat = ChatOpenAI(model="small", seed=3, **given)
    whole = chat.invoke("hi")
    assert whole.usage_metadata and whole.usage_metadata["output_tokens"] >= 1
    assert "".join(str(part.content) for part in chat.stream("hi")) == whole.content
    assert isinstance(OpenAI(model="tiny", **given).invoke(PROMPT), str)
