"""What stands between clients and any number of models: keys, budgets, counts, answers. Knows no Ray."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import Response

from codex_ray import __version__
from codex_ray.cluster.addresses import is_loopback
from codex_ray.config.serve import Serve
from codex_ray.serve.answering import Account, EventStream, Exchange
from codex_ray.serve.answers import ChatAnswer, CompletionAnswer
from codex_ray.serve.audit import Audit
from codex_ray.serve.budgets import Budgets
from codex_ray.serve.calls import Call
from codex_ray.serve.errors import ApiError
from codex_ray.serve.events import Event, Failed
from codex_ray.serve.feedback import Feedback
from codex_ray.serve.keys import Key, KeyFile
from codex_ray.serve.metrics import Metrics
from codex_ray.serve.requests import ChatRequest, CompletionRequest
from codex_ray.serve.screening import Screen
from codex_ray.serve.shelf import Shelf

STAND_SECONDS = 5.0
"""Longest wait for a model to say how it stands."""


class Backend(Protocol):
    """A model, wherever it is; see :class:`~codex_ray.serve.model_server.ModelServer`."""

    def generate(self, call: Call) -> AsyncGenerator[list[Event], None]:
        """Continue texts."""

    async def embed(self, call: Call) -> Any:
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
        self._shelf, self._first = Shelf(settings.adapters), next(iter(backends), "")
        self._audit, self._screen = Audit(settings.guarding.audit), Screen(settings.guarding)
        self.feedback = Feedback(settings.feedback)
        for key in ("mask_secrets", "mask_logs"):
            if not getattr(settings.guarding, key):
                self._audit.write(event="start", **{key: "off"})

    def key_required(self) -> bool:
        """Whether requests need a key now."""
        access = self.settings.access
        if access.required == "auto":
            return bool(self.keys.present()) or self.keys.damaged or not is_loopback(self.settings.host)
        return access.required == "always"

    def adapters(self) -> list[str]:
        """Names of the first model's adapters, as its folder has them now."""
        return [name for name in self._shelf.present() if name not in self.backends]

    def find(self, model: str) -> tuple[Backend, str | None]:
        """The model of a name, and the adapter that is to be added to it.

        Raises:
            ApiError: there is none.
        """
        if model in self.backends:
            return self.backends[model], None
        if model in self._shelf.present():
            return self.backends[self._first], model
        raise ApiError(404, f"the model {model!r} does not exist here", param="model", code="model_not_found")

    async def stands(self) -> dict[str, dict[str, Any]]:
        """How all models stand.

        Raises:
            ApiError: one does not say so in time.
        """
        asked = [asyncio.wait_for(one.stand(), STAND_SECONDS) for one in self.backends.values()]
        try:
            found = dict(zip(self.backends, await asyncio.gather(*asked), strict=True))
        except Exception as error:
            raise ApiError(
                503, "a model is not ready; try again in 1 s", code="not_ready", retry_after=1
            ) from error
        return found

    def account(self, raw: Request, model: str) -> Account:
        """What counts a request, charges its key, and writes it down when it has ended."""
        key: Key | None = raw.state.key
        identity, route = raw.state.request_id, raw.scope["path"]

        def charge(tokens: int) -> None:
            if key is not None:
                self.budgets.charge(key, tokens)

        def close(account: Account) -> None:
            seconds = time.perf_counter() - account.began
            self.metrics.count(model, account, seconds)
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
                **({"risk": round(account.risk, 2)} if account.risk is not None else {}),
            )

        return Account(charge=charge, close=close)

    async def answered(self, raw: Request, request: CompletionRequest | ChatRequest, call: Call) -> Response:
        """Have a call answered, whole or as a stream.

        Raises:
            ApiError: it is refused, or fails before it is answered.
        """
        backend, _ = self.find(request.model)
        sequences = self._sequences(call)
        account = self.account(raw, request.model)
        usage = bool(call.stream and request.wants_usage)
        chat = isinstance(request, ChatRequest)
        answer: Any = (ChatAnswer if chat else CompletionAnswer)(
            request.model, f"codex_ray-{__version__}", with_usage=usage
        )
        with account.refusing():
            if self._screen.wanted(noting=self._audit.kept):
                account.risk = await self._screen.check(await _texts(backend, call))
        exchange = Exchange(
            backend.generate(call),
            answer,
            account,
            choices=sequences,
            tokens=call.top is not None,
            mask=self.settings.guarding.mask_secrets,
            seconds=call.seconds,
            tools=[tool["function"]["name"] for tool in call.tools or ()],
        )
        await exchange.start()
        if not call.stream:
            return Response(await exchange.whole(), media_type="application/json")
        return EventStream(exchange, with_usage=usage)

    def _sequences(self, call: Call) -> int:
        """How many sequences a call has.

        Raises:
            ApiError: more than are taken.
        """
        engine, most = self.settings.engine, self.settings.limits.choices
        if call.choices > most:
            raise ApiError(400, f"n is {call.choices} and at most {most} is taken", param="n")
        sequences = call.choices * len(call.prompts or [None])
        if sequences > engine.slots + engine.queue:
            raise ApiError(
                400,
                f"prompts times n are {sequences} sequences and at most {engine.slots + engine.queue} fit "
                f"(engine.slots={engine.slots}, engine.queue={engine.queue}); send fewer in one request",
                param="n" if call.choices > 1 else "prompt",
            )
        return sequences

    def call(self, raw: Request, model: str, **settings: Any) -> Call:
        """A request as a call.

        Raises:
            ApiError: there is no such model.
        """
        key: Key | None = raw.state.key
        _, adapter = self.find(model)
        seconds = self.settings.engine.request_seconds
        return Call(owner=key.id if key else "", adapter=adapter, seconds=seconds, **settings)


async def _texts(backend: Backend, call: Call) -> list[str]:
    """What a call asks, as texts."""
    if call.messages is not None:
        return ["\n".join(str(one["content"]) for one in call.messages)]
    found = []
    for prompt in call.prompts or []:
        found.append(prompt if isinstance(prompt, str) else whole(await backend.detokenize(list(prompt))))
    return found


def whole(found: Any) -> Any:
    """What a model answered.

    Raises:
        ApiError: that it cannot.
    """
    if isinstance(found, Failed):
        raise found.error
    return found
