"""LangChain's OpenAI classes before a server of ours: chats, streams, JSON by schema, tools, embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr

from codex_ray.config.common import Device
from codex_ray.config.fields import to_dict
from codex_ray.config.serve import Access, Engine, Serve
from codex_ray.serve.front import Front
from codex_ray.serve.model_server import ModelServer
from codex_ray.serve.routes import build_app
from tests.unit.rollout.models import llama, train_small_tokenizer
from tests.unit.serve.conftest import Running


class Answer(BaseModel):
    """An answer to a question."""

    yes: bool


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("served")
    tokenizer = train_small_tokenizer(folder)
    model = llama(tokenizer.vocabulary_size)
    model.config.max_position_embeddings = 1024
    model.save_pretrained(folder)
    own = Serve(
        model=str(folder),
        name="tiny",
        compute=Device(device="cpu", dtype="float32"),
        engine=Engine(slots=4, threads=1),
        access=Access(keys=str(folder / "keys.json")),
    )
    server = ModelServer(to_dict(own))
    running = Running(build_app(Front(own, {"tiny": server})))
    yield {"base_url": f"{running.url}/v1", "api_key": SecretStr("none"), "model": "tiny", "max_retries": 0}
    running.stop()
    server.close(0)


def test_chats_and_their_streams(settings: dict[str, Any]) -> None:
    chat = ChatOpenAI(**settings, temperature=0, max_tokens=12)
    whole = chat.invoke("hi")
    assert whole.usage_metadata and whole.usage_metadata["output_tokens"] > 0
    assert "".join(str(chunk.content) for chunk in chat.stream("hi")) == whole.content
    assert [one.content for one in chat.batch(["hi", "hi"])] == [whole.content] * 2


def test_texts_and_embeddings(settings: dict[str, Any]) -> None:
    assert OpenAI(**settings, temperature=0, max_tokens=5).invoke("def f(")
    vectors = OpenAIEmbeddings(**settings, check_embedding_ctx_length=False).embed_documents(["a", "b"])
    assert len(vectors) == 2 and sum(value**2 for value in vectors[0]) == pytest.approx(1, abs=1e-4)


def test_json_by_schema_and_tools(settings: dict[str, Any]) -> None:
    chat = ChatOpenAI(**settings, temperature=0, max_tokens=40)
    found = chat.with_structured_output(Answer, method="json_schema").invoke("is it?")
    assert isinstance(found, Answer)
    called = chat.bind_tools([Answer], strict=True).bind(response_format=_call()).invoke("is it?")
    assert called.tool_calls[0]["name"] == "Answer" and called.tool_calls[0]["args"] == {"yes": True}


def _call() -> dict[str, Any]:
    """What holds the model to a call of the tool."""
    parts = {"name": {"const": "Answer"}, "arguments": {"const": {"yes": True}}}
    schema = {"type": "object", "properties": parts, "required": ["name", "arguments"]}
    return {
        "type": "json_schema",
        "json_schema": {"name": "call", "schema": schema | {"additionalProperties": False}},
    }
