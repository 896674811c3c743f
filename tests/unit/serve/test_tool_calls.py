"""Calls of tools in what a model writes: whole, in pieces however cut, and through the real client."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from codex_ray.config.fields import to_dict
from codex_ray.config.serve import Serve
from codex_ray.serve.front import Front
from codex_ray.serve.model_server import ModelServer
from codex_ray.serve.routes import build_app
from codex_ray.serve.tool_calls import CallParser
from tests.unit.serve.conftest import Running

CALL = '{"name": "add", "arguments": {"a": 1}}'
HERMES = f"Let me see. <tool_call>\n{CALL}\n</tool_call>\n<tool_call>{CALL}</tool_call>"
TOOLS: Any = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


def read(text: str, size: int) -> tuple[str, list[tuple[str, str]]]:
    parser = CallParser(["add"])
    shown = "".join(parser.feed(text[place : place + size]) for place in range(0, len(text), size))
    rest, calls = parser.end()
    return shown + rest, [(call.name, call.arguments) for call in calls]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_calls_are_found_however_the_text_is_cut(size: int) -> None:
    called = ("add", '{"a": 1}')
    assert read(HERMES, size) == ("Let me see. ", [called, called])
    assert read(f"  {CALL}", size) == ("", [called])
    assert read(CALL.replace("arguments", "parameters"), size) == ("", [called])
    assert read("<tool_call>" + CALL, size) == ("", [called])  # cut off before its end


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(
    "text",
    [
        "plain text, a < b and <tool_",
        CALL.replace("add", "other"),
        '{"name": "add", "arguments": [1]}',
        '{"a": 1}',
        "<tool_call>no JSON</tool_call>",
        f"text before {CALL}",
        "[" * 5000,
        "",
        "  ",
    ],
)
def test_what_is_no_call_of_a_given_tool_is_text(text: str, size: int) -> None:
    assert read(text, size) == (text, [])


def test_calls_through_the_client(settings: Serve, model_folder: Path, tmp_path: Path) -> None:
    """The model is held to an object that is a call."""
    shutil.copytree(model_folder, tmp_path / "longer")
    config = json.loads((tmp_path / "longer" / "config.json").read_text())
    (tmp_path / "longer" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 256}))
    server = ModelServer(to_dict(replace(settings, model=str(tmp_path / "longer"))))
    running = Running(build_app(Front(settings, {"tiny": server})))
    try:
        _called(running.url)
    finally:
        running.stop()
        server.close(0)


def _called(url: str) -> None:
    client = openai.OpenAI(
        base_url=f"{url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    )
    schema = {
        "type": "object",
        "properties": {"name": {"const": "add"}, "arguments": {"const": {"a": 1}}},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
    asked: Any = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}],
        "tools": TOOLS,
        "response_format": {"type": "json_schema", "json_schema": {"name": "call", "schema": schema}},
        "max_tokens": 40,
    }
    choice = client.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    assert choice.message.tool_calls
    (call,) = choice.message.tool_calls
    assert call.type == "function" and call.function.name == "add"
    assert json.loads(call.function.arguments) == {"a": 1}
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert not any(chunk.choices[0].delta.content for chunk in chunks)
    (streamed,) = [chunk.choices[0].delta.tool_calls for chunk in chunks if chunk.choices[0].delta.tool_calls]
    assert streamed[0].function and streamed[0].function.name == "add" and streamed[0].id
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    without = client.chat.completions.create(**asked, tool_choice="none").choices[0]
    assert without.message.tool_calls is None and without.finish_reason == "stop"
