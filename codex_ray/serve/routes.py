"""OpenAI's routes, and the server's own, as an ASGI application."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from codex_ray import __version__
from codex_ray.serve.answers import embeddings, model_card
from codex_ray.serve.calls import Call
from codex_ray.serve.errors import ApiError
from codex_ray.serve.front import Front, whole
from codex_ray.serve.guard import Guard
from codex_ray.serve.requests import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    Preference,
    TokenizeRequest,
)

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_FIELD = re.compile(r"[a-z_]{1,64}|\d{1,6}")
_UNIONS = ("str", "int", "list", "float")  # what a place is called where a field takes several types


def build_app(front: Front) -> Guard:
    """Make the application: routes, errors in OpenAI's shape, and the guard before all of it."""
    app = FastAPI(title="codex_ray", version=__version__, docs_url=None, redoc_url=None)
    _add_errors(app)
    _add_generation(app, front)
    _add_texts(app, front)
    _add_state(app, front)
    _add_feedback(app, front)
    return Guard(app, front.settings.limits, front.keys, front.key_required, front.budgets)


def _add_generation(app: FastAPI, front: Front) -> None:
    @app.post("/v1/completions")
    async def completions(request: CompletionRequest, raw: Request) -> Response:
        """Continue texts or token ids."""
        prompts, most = request.prompts, front.settings.limits.prompts
        if len(prompts) > most:
            raise ApiError(
                400, f"there are {len(prompts)} prompts and at most {most} are taken", param="prompt"
            )
        call = front.call(
            raw,
            request.model,
            **request.sampled(),
            prompts=prompts,
            max_tokens=16 if request.max_tokens is None else request.max_tokens,
            top=request.logprobs,
            echo=bool(request.echo),
        )
        return await front.answered(raw, request, call)

    @app.post("/v1/chat/completions")
    async def chat(request: ChatRequest, raw: Request) -> Response:
        """Answer a chat."""
        call = front.call(
            raw,
            request.model,
            **request.sampled(),
            messages=_messages(front, request.messages),
            tools=[tool.model_dump() for tool in request.tools or () if request.tool_choice != "none"],
            max_tokens=request.max_completion_tokens or request.max_tokens,
            top=(request.top_logprobs or 0) if request.logprobs else None,
            schema=request.response_format.schema_of_text if request.response_format else None,
        )
        return await front.answered(raw, request, call)


def _messages(front: Front, messages: list[Any]) -> list[dict[str, Any]]:
    most = front.settings.limits.messages
    if len(messages) > most:
        raise ApiError(
            400, f"there are {len(messages)} messages and at most {most} are taken", param="messages"
        )
    return [message.plain() for message in messages]


def _add_texts(app: FastAPI, front: Front) -> None:
    @app.post("/v1/embeddings")
    async def embed(request: EmbeddingRequest, raw: Request) -> Response:
        """Embed texts: the mean of the last layer's states, at length 1."""
        inputs, most = request.inputs, front.settings.limits.prompts
        if len(inputs) > most:
            raise ApiError(400, f"there are {len(inputs)} inputs and at most {most} are taken", param="input")
        backend, _ = front.find(request.model)
        account = front.account(raw, request.model)
        with account.refusing():
            vectors, tokens = whole(await backend.embed(front.call(raw, request.model, prompts=inputs)))
            account.read(tokens)
            account.outcome = "ok"
        account.end()
        packed = request.encoding_format == "base64"
        return JSONResponse(embeddings(request.model, vectors, tokens, packed=packed))

    @app.post("/tokenize")
    async def tokenize(request: TokenizeRequest) -> Response:
        """Ids of a prompt or of messages, as the model would read them."""
        messages = _messages(front, request.messages) if request.messages is not None else None
        prompts = None if request.prompt is None else [request.prompt]
        backend, _ = front.find(request.model)
        ids = whole(await backend.tokenize(Call(prompts=prompts, messages=messages)))
        return JSONResponse({"tokens": ids, "count": len(ids)})

    @app.post("/detokenize")
    async def detokenize(request: DetokenizeRequest) -> Response:
        """The text of ids."""
        backend, _ = front.find(request.model)
        return JSONResponse({"prompt": whole(await backend.detokenize(request.tokens))})


def _add_state(app: FastAPI, front: Front) -> None:
    page = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")

    @app.get("/", include_in_schema=False)
    async def chat_page() -> Response:
        """The chat page, which brings all it needs."""
        return HTMLResponse(page, headers={"content-security-policy": _POLICY, "cache-control": "no-cache"})

    @app.get("/health")
    async def health() -> Response:
        """Whether the front lives."""
        return JSONResponse({"status": "ok"})

    @app.get("/ready")
    async def ready() -> Response:
        """Whether every model answers."""
        await front.stands()
        return JSONResponse({"status": "ready"})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(front.metrics.text(await front.stands()), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> Response:
        """The models here."""
        return JSONResponse({"object": "list", "data": list(_cards(front, await front.stands()).values())})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        """One model."""
        front.find(name)
        return JSONResponse(_cards(front, await front.stands())[name])


def _add_feedback(app: FastAPI, front: Front) -> None:
    @app.get("/v1/feedback")
    async def kept() -> Response:
        """Whether preferences are kept here."""
        return JSONResponse({"kept": front.feedback.kept})

    @app.post("/v1/feedback")
    async def keep(request: Preference, raw: Request) -> Response:
        """Keep a preference, to which its user consents."""
        front.find(request.model)
        _messages(front, request.messages)
        key = raw.state.key
        await asyncio.to_thread(front.feedback.keep, request, key and key.id)
        return JSONResponse({"kept": True})


def _cards(front: Front, stands: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Models and adapters as they are listed; an adapter names its ``parent``, as vLLM's do."""
    cards = {
        name: model_card(name, stand["created"], stand["max_model_len"], stand["source"])
        for name, stand in stands.items()
    }
    first = next(iter(cards))
    return cards | {name: {**cards[first], "id": name, "parent": first} for name in front.adapters()}


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> Response:
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def wrong(_: Request, error: RequestValidationError) -> Response:
        return await refused(_, _invalid(error.errors()[0]))

    @app.exception_handler(HTTPException)
    async def elsewhere(_: Request, error: HTTPException) -> Response:
        return await refused(_, ApiError(error.status_code, str(error.detail)))

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> Response:
        return await refused(_, ApiError(500, "the server failed; its log says why"))


def _invalid(first: Mapping[str, Any]) -> ApiError:
    """The first thing wrong with a request, by the place that its sender knows."""
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is no JSON: {first['ctx']['error']}")
    names = [str(part) for part in first["loc"] if part != "body"]
    place = ".".join(part for part in names if part not in _UNIONS and _FIELD.fullmatch(part))
    said = str(first["msg"]).removeprefix("Value error, ")
    return ApiError(400, (f"{place}: {said}" if place else said)[:500], param=place.split(".")[0] or None)
