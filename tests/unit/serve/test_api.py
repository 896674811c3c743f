"""The routes as the real ``openai`` client and plain HTTP see them."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlparse

import httpx2 as httpx
import openai
import pytest

from codex_ray.config.serve import Engine, Guarding, Limits, Serve
from codex_ray.serve.model_server import ModelServer

HI: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def strict(url: str) -> openai.OpenAI:
    """Refuses answers that are not of the types of the ``openai`` package."""
    return openai.OpenAI(
        base_url=f"{url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    )


def test_models(strict: openai.OpenAI) -> None:
    assert [model.id for model in strict.models.list()] == ["tiny"]
    assert strict.models.retrieve("tiny").max_model_len == 64  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError):
        strict.models.retrieve("other")


def test_the_lineage_of_what_is_served_begins_at_the_endpoint(
    url: str, settings: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    from codex_ray.cli import main

    assert main(["lineage", url]) == 0
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first == f"endpoint {url} (there): model tiny"
    assert second.startswith(f"└─ model {settings.model}")
    assert main(["lineage", f"{url}/v1", "model=tinny"]) == 1
    assert "serves no model tinny; did you mean 'tiny'?" in capsys.readouterr().err
    assert main(["lineage", "http://127.0.0.1:9"]) == 1
    assert "does not list its models (Connection error.); check the address" in capsys.readouterr().err


def test_completions(strict: openai.OpenAI) -> None:
    settings: Any = {"model": "tiny", "prompt": "def f(", "max_tokens": 8, "seed": 3, "n": 2, "logprobs": 2}
    answer = strict.completions.create(**settings)
    assert answer.choices[0].text != answer.choices[1].text
    assert strict.completions.create(**settings).choices == answer.choices
    logprobs = answer.choices[0].logprobs
    assert logprobs and logprobs.tokens and logprobs.top_logprobs
    assert len(logprobs.tokens) == 8 and all(len(top) in (2, 3) for top in logprobs.top_logprobs)
    assert answer.usage and answer.usage.completion_tokens == 16
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 16


def test_streams_add_up_to_the_whole(client: openai.OpenAI) -> None:
    settings: Any = {"model": "tiny", "messages": HI, "max_tokens": 30, "seed": 5, "n": 2}
    whole = client.chat.completions.create(**settings)
    chunks = list(
        client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True})
    )
    assert [chunk.choices[0].delta.role for chunk in chunks[:2]] == ["assistant", "assistant"]
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    for choice in whole.choices:
        mine = [one for chunk in chunks for one in chunk.choices if one.index == choice.index]
        assert "".join(one.delta.content or "" for one in mine) == choice.message.content
        assert [one.finish_reason for one in mine if one.finish_reason] == [choice.finish_reason]
        assert mine[-1].finish_reason == choice.finish_reason
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_stream_itself(url: str) -> None:
    body = {"model": "tiny", "messages": HI, "max_tokens": 3, "stream": True}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"][0]["delta"] == {} and chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_half_characters_are_never_sent(client: openai.OpenAI) -> None:
    """The bytes of a letter are tokens of their own here; a bias writes them one by one."""
    tokens = httpx.post(
        f"{str(client.base_url).removesuffix('/v1/')}/tokenize", json={"model": "tiny", "prompt": "\u4f60"}
    ).json()["tokens"][-3:]
    grammar = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": "\u4f60\u597d"}}}
    stream = client.chat.completions.create(
        model="tiny",
        messages=HI,
        stream=True,
        response_format=grammar,
        max_tokens=20,  # type: ignore[call-overload]
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert len(tokens) == 3 and "".join(pieces) == '"\u4f60\u597d"'
    assert all("\ufffd" not in piece for piece in pieces)


def test_stop_strings_end_a_text_before_them_also_across_chunks(client: openai.OpenAI) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": "hello world again"}}}
    settings: Any = {"model": "tiny", "messages": HI, "response_format": schema, "max_tokens": 40}
    whole = client.chat.completions.create(**settings, stop=["o wor", "zzz"]).choices[0]
    assert (whole.message.content, whole.finish_reason) == ('"hell', "stop")
    stream = client.chat.completions.create(**settings, stop="o wor", stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == '"hell'


def test_echo_with_log_probabilities_of_the_prompt(client: openai.OpenAI, model_server: ModelServer) -> None:
    """What lm-evaluation-harness asks for: likelihoods of given tokens."""
    ids = [1, 20, 30, 40, 50]
    answer = client.completions.create(model="tiny", prompt=[ids], max_tokens=1, echo=True, logprobs=1)
    logprobs = answer.choices[0].logprobs
    assert logprobs and logprobs.token_logprobs and len(logprobs.token_logprobs) == 6
    assert logprobs.token_logprobs[0] is None
    import torch

    with torch.inference_mode():
        logits_SV = model_server._loaded.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    wanted = [float(logits_SV[place, token]) for place, token in enumerate(ids[1:])]
    assert logprobs.token_logprobs[1:5] == pytest.approx(wanted, abs=1e-4)
    only = client.completions.create(model="tiny", prompt="def f(", max_tokens=0, echo=True)
    assert only.choices[0].text == "def f(" and only.usage and only.usage.completion_tokens == 0


def test_bias_and_penalties_change_what_is_drawn(client: openai.OpenAI) -> None:
    settings: Any = {"model": "tiny", "prompt": "a", "max_tokens": 6, "temperature": 0, "logprobs": 0}
    forced = client.completions.create(**settings, logit_bias={"77": 100}).choices[0].logprobs
    assert forced and forced.tokens and len(set(forced.tokens)) == 1
    varied = client.completions.create(**settings, logit_bias={"77": 2}, frequency_penalty=2)
    assert varied.choices[0].logprobs and len(set(varied.choices[0].logprobs.tokens or [])) > 1


def test_embeddings(client: openai.OpenAI, strict: openai.OpenAI) -> None:
    packed = client.embeddings.create(model="tiny", input=["one", "another"])
    plain = strict.embeddings.create(model="tiny", input=["one", "another"], encoding_format="float")
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding)
        assert sum(value * value for value in other.embedding) == pytest.approx(1.0)


def test_tokens_there_and_back(url: str) -> None:
    text = "def f(x): return \u00e9"
    ids = httpx.post(f"{url}/tokenize", json={"model": "tiny", "prompt": text}).json()
    assert ids["count"] == len(ids["tokens"])
    back = httpx.post(f"{url}/detokenize", json={"model": "tiny", "tokens": ids["tokens"]}).json()
    assert back == {"prompt": text}
    chat = httpx.post(f"{url}/tokenize", json={"model": "tiny", "messages": HI}).json()
    assert chat["count"] > 3


def test_state_routes(url: str) -> None:
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{url}/ready").json() == {"status": "ready"}
    metrics = httpx.get(f"{url}/metrics").text
    for name in ("num_requests_running", "time_to_first_token_seconds_bucket", "generation_tokens_total"):
        assert f"codex_ray:{name}" in metrics
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    assert {"/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize"} <= set(paths)
    answer = httpx.get(f"{url}/health", headers={"x-request-id": "mine-1", "origin": "http://evil.example"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert not [name for name in answer.headers if name.startswith("access-control")]


C, H = "/v1/completions", "/v1/chat/completions"
DEEP: Any = {"name": "f"}
for _ in range(300):
    DEEP = {"name": "f", "parameters": DEEP}
BAD: list[tuple[str, Any, int]] = [
    (C, {"model": "tiny"}, 400),
    (C, {"model": "other", "prompt": "a"}, 404),
    (C, {"model": 7, "prompt": "a"}, 400),
    (C, {"model": "tiny", "prompt": ""}, 200),
    (C, {"model": "tiny", "prompt": []}, 400),
    (C, {"model": "tiny", "prompt": [[]]}, 400),
    (C, {"model": "tiny", "prompt": [-1]}, 400),
    (C, {"model": "tiny", "prompt": [400]}, 400),
    (C, {"model": "tiny", "prompt": [10**30]}, 400),
    (C, {"model": "tiny", "prompt": {"a": 1}}, 400),
    (C, {"model": "tiny", "prompt": "a" * 500}, 400),
    (C, {"model": "tiny", "prompt": ["a"] * 65}, 400),
    (C, {"model": "tiny", "prompt": "a", "n": 10**6}, 400),
    (C, {"model": "tiny", "prompt": "a", "n": 9}, 400),
    (C, {"model": "tiny", "prompt": "a", "best_of": 3}, 400),
    (C, {"model": "tiny", "prompt": "a", "suffix": "b"}, 400),
    (C, {"model": "tiny", "prompt": "a", "max_tokens": -1}, 400),
    (C, {"model": "tiny", "prompt": "a", "max_tokens": "3"}, 400),
    (C, {"model": "tiny", "prompt": "a", "max_tokens": 10**12}, 400),
    (C, {"model": "tiny", "prompt": "a", "max_tokens": 10**9}, 200),
    (C, {"model": "tiny", "prompt": "a", "logprobs": 10**6}, 400),
    (C, {"model": "tiny", "prompt": "a", "temperature": -1}, 400),
    (C, {"model": "tiny", "prompt": "a", "top_p": 0}, 400),
    (C, {"model": "tiny", "prompt": "a", "stop": [""]}, 400),
    (C, {"model": "tiny", "prompt": "a", "stop": ["x"] * 17}, 400),
    (C, {"model": "tiny", "prompt": "a", "logit_bias": {"a": 1}}, 400),
    (C, {"model": "tiny", "prompt": "a", "logit_bias": {"5000": 1}}, 400),
    (C, {"model": "tiny", "prompt": "a", "logit_bias": {"5": 1000}}, 400),
    (C, {"model": "tiny", "prompt": "a", "stream_options": {"include_usage": True}}, 400),
    (C, {"model": "tiny", "prompt": "a", "chat_template": "{{ x }}"}, 400),
    (C, {"model": "tiny", "prompt": "a", "seed": 2**70}, 400),
    (C, {"model": "tiny", "prompt": "a", "seed": -5, "max_tokens": 1}, 200),
    (H, {"model": "tiny", "messages": []}, 400),
    (H, {"model": "tiny", "messages": [{"role": "king", "content": "a"}]}, 400),
    (
        H,
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
        },
        400,
    ),
    (H, {"model": "tiny", "messages": HI, "tools": 5}, 400),
    (H, {"model": "tiny", "messages": HI, "tools": [{"type": "function", "function": DEEP}]}, 400),
    (H, {"model": "tiny", "messages": HI, "tool_choice": "required"}, 400),
    (H, {"model": "tiny", "messages": HI, "top_logprobs": 3}, 400),
    (H, {"model": "tiny", "messages": HI, "response_format": {"type": "json_schema"}}, 400),
    (H, {"model": "tiny", "messages": HI, "chat_template_kwargs": {"x": 1}}, 400),
    (
        H,
        {"model": "tiny", "messages": [{"role": "user", "name": "</s>", "content": "a"}], "max_tokens": 1},
        200,
    ),
    (H, {"model": "tiny", "messages": HI, "tools": [{"type": "function", "function": 5}]}, 400),
    (H, {"model": "tiny", "messages": HI, "tools": [{"type": "function", "function": {"name": "f"}}]}, 400),
    (H, {"model": "tiny", "messages": [{"role": "assistant", "tool_calls": [{"function": []}]}]}, 400),
    (
        H,
        {
            "model": "tiny",
            "messages": [
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}
            ],
        },
        400,
    ),
    (H, {"model": "tiny", "messages": [{"role": "user", "content": "</s>"}], "max_tokens": 1}, 200),
    ("/v1/embeddings", {"model": "tiny", "input": []}, 400),
    ("/v1/embeddings", {"model": "tiny", "input": "a", "dimensions": 5}, 400),
    ("/v1/embeddings", {"model": "tiny", "input": ["a" * 500]}, 400),
    ("/detokenize", {"model": "tiny", "tokens": [10**6]}, 400),
    ("/tokenize", {"model": "tiny"}, 400),
    ("/v1/nothing", {}, 404),
]


@pytest.mark.parametrize(("path", "body", "status"), BAD)
def test_bad_requests_are_refused_in_openais_shape(url: str, path: str, body: Any, status: int) -> None:
    answer = httpx.post(url + path, json=body, timeout=30)
    assert answer.status_code == status, answer.text
    if status != 200:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"]
        assert len(error["message"]) < 600


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b"[]", b'{"model": "tiny", "prompt": "\\ud800"}',
     b'{"model": "tiny", "prompt": "a", "temperature": NaN}',
     b'{"model": "tiny", "prompt": "a", "top_p": 1e999}',
     b'{"model": "tiny", "prompt": "a", "seed": ' + b"9" * 6000 + b"}"],
)  # fmt: skip
def test_bodies_that_are_no_request_are_refused(url: str, body: bytes) -> None:
    answer = httpx.post(url + C, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["message"], answer.text


def test_other_methods_types_and_sizes_are_refused(url: str) -> None:
    json_type = {"content-type": "application/json"}
    assert httpx.get(url + C).status_code == 405
    assert httpx.post(url + C, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    large = httpx.post(url + C, content=b" " * (2**20 + 1), headers=json_type)
    assert large.status_code == 413 and "longer than" in large.json()["error"]["message"]

    def chunks() -> Any:
        for _ in range(40):
            yield b" " * 2**16

    assert httpx.post(url + C, content=chunks(), headers=json_type).status_code == 413
    many = {f"x-{number}": "1" for number in range(80)}
    assert httpx.get(f"{url}/health", headers=many).status_code == 431
    assert httpx.get(f"{url}/health", headers={"x-long": "y" * 20_000}).status_code in (400, 431)
    assert httpx.get(f"{url}/health", headers={"host": "evil.example"}).status_code == 403


def test_a_body_that_does_not_come_ends(serve_with: Callable[..., Any]) -> None:
    where = urlparse(serve_with(limits=Limits(body_seconds=0.3)).url)
    with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: 100\r\n\r\n{"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_clients_that_vanish_leave_nothing_behind(url: str, model_server: ModelServer) -> None:
    body = {"model": "tiny", "messages": HI, "stream": True, "n": 4, "logit_bias": {"2": -100}}
    for _ in range(3):
        with httpx.stream("POST", f"{url}{H}", json=body) as answer:
            next(answer.iter_raw())
    deadline = time.monotonic() + 10
    while model_server._engine._jobs:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    sampler = model_server._loaded.lane.sampler
    assert model_server._engine.call(lambda: sampler.running).result(10) == 0


def test_many_at_once_are_answered_or_told_to_come_again(url: str) -> None:
    async def run() -> list[int]:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

        async def ask(seed: int) -> int:
            try:
                await client.completions.create(model="tiny", prompt="a", max_tokens=50, seed=seed)
            except openai.APIStatusError as error:
                assert error.status_code == 503 and int(error.response.headers["retry-after"]) >= 1
                return 503
            return 200

        return list(await asyncio.gather(*(ask(seed) for seed in range(40))))

    statuses = asyncio.run(run())
    assert statuses.count(200) >= 8 and set(statuses) <= {200, 503}


def test_keys_scopes_and_budgets(serve_with: Callable[..., Any], settings: Serve, tmp_path: Any) -> None:
    from codex_ray.config.serve import Access
    from codex_ray.serve.keys import KeyFile

    file = tmp_path / "keys.json"
    url = serve_with(access=Access(keys=str(file), required="always"), guarding=Guarding(
        audit=str(tmp_path / "audit.jsonl"))).url  # fmt: skip
    keys = KeyFile(file)
    _, text = keys.add("alice", scopes=["generate"], tokens_per_minute=30.0)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=text, max_retries=0)
    body: Any = {"model": "tiny", "prompt": "a", "max_tokens": 40}
    deadline = time.monotonic() + 10
    while httpx.get(f"{url}/v1/models", headers={"authorization": f"Bearer {text}"}).status_code == 401:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert client.completions.create(**body).usage
    with pytest.raises(openai.RateLimitError) as refusal:
        client.completions.create(**body)
    assert int(refusal.value.response.headers["retry-after"]) >= 1
    with pytest.raises(openai.PermissionDeniedError):
        client.embeddings.create(model="tiny", input="a")
    for path in ("/v1/models", "/openapi.json", "/metrics", "/v1/nothing"):
        assert httpx.get(url + path).status_code == 401, path
    assert httpx.post(f"{url}/tokenize", json={}).status_code == 401
    assert httpx.get(f"{url}/health").status_code == 200
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert lines[0]["outcome"] == "ok" and lines[0]["completion_tokens"] > 0
    assert not any(key == "prompt" or "text" in key for line in lines for key in line)


def test_deadlines_in_the_middle_of_a_stream_are_error_events(
    serve_with: Callable[..., Any], settings: Serve
) -> None:
    url = serve_with(engine=replace(Engine(), request_seconds=0.1)).url
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    settings_of: Any = {"model": "tiny", "prompt": ["a"] * 30, "max_tokens": 60, "logit_bias": {"2": -100}}
    with pytest.raises(openai.APIError) as failure:
        for _ in client.completions.create(**settings_of, stream=True):
            pass
    assert not isinstance(failure.value, openai.APIConnectionError)
