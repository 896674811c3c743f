"""What stands between clients and any number of models: keys, budgets, counts, answers. Knows no Ray."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from codex_ray import __version__
from codex_ray.config.serve import Serve
from codex_ray.serve.answering import Account, Exchange
from codex_ray.serve.answers import ChatAnswer, CompletionAnswer
from codex_ray.serve.audit import Audit
from codex_ray.serve.budgets import Budgets
from codex_ray.serve.calls import Call
from codex_ray.serve.errors import ApiError
from codex_ray.serve.events import Event
from codex_ray.serve.guard import is_loopback
from codex_ray.serve.keys import Key, KeyFile
from codex_ray.serve.metrics import Metrics
from codex_ray.serve.requests import ChatRequest, CompletionRequest, Sampled

STAND_SECONDS = 5.0
"""Longest wait for a model to say how it stands."""


class Backend(Protocol):
    """A model, wherever it is; see :class:`~codex_ray.serve.model_server.ModelServer`."""

    def generate(self, call: Call) -> AsyncGenerator[list[Event], None]:
        """Continue texts."""

    async def embed(self, texts: Any) -> Any:
        """Embeddings, and how many tokens."""

    async def tokenize(self, call: Call) -> Any:
        """Ids."""

    async def detokenize(self, ids: list[int]) -> Any:
        """Text."""

    async def stand(self) -> dict[str, Any]:
        """Figures."""


class Front:
    """What the routes share.

    Args:
        settings: of serving.
        backends: models by the names that clients use.
    """

    def __init__(self, settings: Serve, backends: Mapping[str, Backend]) -> None:
        self.settings, self.backends = settings, backends
        self.keys = KeyFile(settings.access.keys)
        self.budgets, self.metrics = Budgets(), Metrics()
        self._audit = Audit(settings.guarding.audit)
        if not settings.guarding.mask_secrets:
            self._audit.write(event="start", masking="off")

    def key_required(self) -> bool:
        """Whether requests need a key now."""
        access = self.settings.access
        if access.required == "auto":
            return bool(self.keys.present()) or self.keys.damaged or not is_loopback(self.settings.host)
        return access.required == "always"

    def backend(self, model: str) -> Backend:
        """The model of a name.

        Raises:
            ApiError: there is none.
        """
        if model not in self.backends:
            raise ApiError(
                404, f"the model {model!r} does not exist here", param="model", code="model_not_found"
            )
        return self.backends[model]

    async def stands(self) -> dict[str, dict[str, Any]]:
        """How all models stand.

        Raises:
            ApiError: one does not say so in time.
        """
        asked = [asyncio.wait_for(one.stand(), STAND_SECONDS) for one in self.backends.values()]
        try:
            return dict(zip(self.backends, await asyncio.gather(*asked), strict=True))
        except Exception as error:
            raise ApiError(
                503, "a model is not ready; try again in 1 s", code="not_ready", retry_after=1
            ) from error

    def closing(self, raw: Request, model: str) -> Callable[[Account], None]:
        """What is done when a request has ended: counting, charging, writing down."""
        key: Key | None = raw.state.key
        identity, began = raw.state.request_id, time.perf_counter()
        route = raw.scope["path"]

        def close(account: Account) -> None:
            seconds = time.perf_counter() - began
            self.metrics.count(model, account, seconds)
            if key is not None:
                self.budgets.charge(key, account.prompt_tokens + account.drawn_tokens)
            self._audit.write(
                request=identity,
                key=key and key.id,
                client=raw.client and raw.client.host,
                route=route,
                model=model,
                prompt_tokens=account.prompt_tokens,
                completion_tokens=account.drawn_tokens,
                seconds=round(seconds, 4),
                outcome=account.outcome,
                masked=account.masked,
            )

        return close

    async def answered(
        self, raw: Request, request: CompletionRequest | ChatRequest, call: Call, prompts: int
    ) -> Response:
        """Have a call answered, whole or as a stream."""
        backend, limits = self.backend(request.model), self.settings.limits
        if call.choices > limits.choices:
            raise ApiError(400, f"n is {call.choices} and at most {limits.choices} is taken", param="n")
        chat = isinstance(request, ChatRequest)
        usage = bool(call.stream and request.wants_usage)
        answer: Any = (ChatAnswer if chat else CompletionAnswer)(
            request.model, f"codex_ray-{__version__}", with_usage=usage
        )
        exchange = Exchange(
            backend.generate(call),
            answer,
            choices=prompts * call.choices,
            tokens=call.top is not None,
            mask=self.settings.guarding.mask_secrets,
            seconds=call.seconds,
            close=self.closing(raw, request.model),
        )
        await exchange.start()
        if not call.stream:
            return JSONResponse(await exchange.whole())
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(
            exchange.stream(with_usage=usage), media_type="text/event-stream", headers=headers
        )

    def call(self, raw: Request, request: Sampled, **settings: Any) -> Call:
        """A request as a call."""
        key: Key | None = raw.state.key
        seconds = self.settings.engine.request_seconds
        return Call(owner=key.id if key else "", seconds=seconds, **request.sampled(), **settings)
