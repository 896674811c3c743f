"""A small OpenAI-compatible server, asked through OpenAI's own client."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from codex_ray.config.common import Mlflow, Track
from codex_ray.config.evaluate import Answering, Endpoint, Evaluate, Rows
from codex_ray.errors import CodexRayError
from codex_ray.evaluate.run import evaluate

Respond = Callable[[str, dict[str, Any]], tuple[int, Any]]


class Server(ThreadingHTTPServer):
    """Answers as ``respond`` says, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.respond: Respond = completions
        self.asked: list[tuple[str, str | None, dict[str, Any]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers.get("Authorization"), body))
        status, reply = self.server.respond(self.path, body)
        data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def completions(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """Say of each prompt its last word again."""
    if path == "/v1/completions":
        choices = [{"text": body["prompt"].split()[-1]} for _ in range(body["n"])]
    else:
        said = {"role": "assistant", "content": body["messages"][-1]["content"].split()[-1]}
        choices = [{"message": said} for _ in range(body["n"])]
    choices = [one | {"index": place, "finish_reason": "stop"} for place, one in enumerate(choices)]
    return 200, {"id": "1", "object": "completion", "created": 1, "model": body["model"], "choices": choices}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def settings(server: Server, tmp_path: Path) -> Evaluate:
    rows = [{"id": n, "prompt": f"say {n}", "response": f"{n if n % 2 else 'x'}"} for n in range(20)]
    (tmp_path / "echo.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Evaluate(
        model="echo-1",
        tasks=[str(tmp_path / "echo.jsonl")],
        rows=Rows(metrics=["exact_match"], answering=Answering(max_new_tokens=5, stop=["\n"])),
        endpoint=Endpoint(url=server.url, concurrency=4, retries=0, key_variable="KEY_OF_THIS_TEST"),
        answers=str(tmp_path / "answers"),
        track=Track(progress="off", mlflow=Mlflow(enabled=False)),
    )


def test_an_endpoint_is_asked_once_for_each_example(
    settings: Evaluate, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_OF_THIS_TEST", "secret")
    assert evaluate(settings).figures["echo/exact_match"] == 0.5
    assert len(server.asked) == 20
    path, key, body = server.asked[0]
    assert (path, key) == ("/v1/completions", "Bearer secret")
    assert {name: body[name] for name in ("model", "max_tokens", "temperature", "n", "stop")} == {
        "model": "echo-1",
        "max_tokens": 5,
        "temperature": 0.0,
        "n": 1,
        "stop": ["\n"],
    }
    assert len({asked[2]["seed"] for asked in server.asked}) == 20
    evaluate(settings)
    assert len(server.asked) == 20  # kept


def test_chat_completions_take_messages(settings: Evaluate, server: Server) -> None:
    chat = replace(settings, endpoint=replace(settings.endpoint, chat=True))
    assert evaluate(chat).figures["echo/exact_match"] == 0.5
    assert server.asked[0][0] == "/v1/chat/completions"
    assert server.asked[0][2]["messages"][0]["role"] == "user"


def test_what_came_before_an_error_is_kept(settings: Evaluate, server: Server) -> None:
    def failing(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if len(server.asked) > 7:
            return 400, {"error": {"message": "prompt is too long", "type": "invalid_request_error"}}
        return completions(path, body)

    server.respond = failing
    with pytest.raises(CodexRayError, match=r"refused example .* with status 400 \(.*prompt is too long"):
        evaluate(settings)
    server.respond, server.asked = completions, []
    assert evaluate(settings).figures["echo/exact_match"] == 0.5
    assert 13 <= len(server.asked) <= 17


def test_errors_that_pass_are_tried_again(settings: Evaluate, server: Server) -> None:
    seen: set[str] = set()

    def flaky(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if body["prompt"] in seen:
            return completions(path, body)
        seen.add(body["prompt"])
        return 503, {"error": {"message": "busy"}}

    server.respond = flaky
    patient = replace(settings, max_examples=3, endpoint=replace(settings.endpoint, retries=2))
    assert evaluate(patient).figures["echo/examples"] == 3
    assert len(server.asked) == 6


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        ((401, {"error": {"message": "no key"}}), "status 401"),
        ((500, b"oops"), "status 500"),
        ((200, b"<html>hello</html>"), "something else than completions"),
        ((200, {"choices": []}), "0 choices, and 1 were asked for"),
        ((200, {"choices": None}), "something else than completions"),
        ((200, {"choices": [{"text": None, "index": 0}]}), "something else than completions"),
    ],
)
def test_wrong_replies_are_named(settings: Evaluate, server: Server, reply: Any, sentence: str) -> None:
    server.respond = lambda path, body: reply
    with pytest.raises(CodexRayError, match=sentence):
        evaluate(replace(settings, max_examples=2))


def test_a_dead_and_a_silent_endpoint_end_in_a_sentence(settings: Evaluate, server: Server) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        with pytest.raises(CodexRayError, match="cannot be reached; check the address"):
            evaluate(replace(settings, endpoint=replace(settings.endpoint, url=url)))
        silent.listen()
        slow = replace(settings.endpoint, url=url, timeout_seconds=0.3)
        with pytest.raises(CodexRayError, match=r"did not answer within 0\.3 s"):
            evaluate(replace(settings, endpoint=slow, max_examples=1))
