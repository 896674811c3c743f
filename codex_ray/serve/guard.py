"""What every request passes before any work: limits of headers and body, who asks, and how often."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from codex_ray.cluster.addresses import is_loopback
from codex_ray.config.serve import Limits
from codex_ray.serve.budgets import Budgets
from codex_ray.serve.errors import ApiError
from codex_ray.serve.ids import random_hex
from codex_ray.serve.keys import Key, KeyFile

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/", "/health", "/ready", "/favicon.ico"})
"""Routes that need no key: whether the server lives, and the chat page, in which the key is entered."""

SCOPE_OF = {"/v1/completions": "generate", "/v1/chat/completions": "generate", "/v1/embeddings": "embed"}
SCOPE_OF |= {"/metrics": "metrics", "/v1/feedback": "generate"}

_IDENTITY = re.compile(r"[\w.:-]{1,64}")
_SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]


class Guard:
    """ASGI middleware; puts ``key`` and ``request_id`` into the scope's state.

    Args:
        app: what is behind.
        limits: of a request.
        keys: of the clients.
        required: whether a key is needed; without, only clients on this machine are let in, under a name of
            this machine, which pages from elsewhere cannot claim.
        budgets: of the keys.
    """

    def __init__(
        self, app: App, limits: Limits, keys: KeyFile, required: Callable[[], bool], budgets: Budgets
    ) -> None:
        self._app, self._limits, self._keys = app, limits, keys
        self._required, self._budgets = required, budgets
        self._inside, self._draining = 0, False

    def drain(self) -> int:
        """Refuse requests from now on; how many are in work."""
        self._draining = True
        return self._inside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with an error."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        identity = _identity(dict(headers).get(b"x-request-id", b""))
        marked = _marking(send, identity)
        counted = False
        try:
            self._check_head(headers)
            key = self._admitted(scope, dict(headers))
            if self._draining:
                raise ApiError(503, "the server is ending; try again", code="ending", retry_after=2)
            if self._inside >= self._limits.requests_at_once and scope["path"] not in OPEN:
                raise ApiError(503, "the server is full; try again in 1 s", code="overloaded", retry_after=1)
            self._inside += 1
            counted = True
            body = await self._body(scope, dict(headers), receive)
            if key is not None and scope["path"] in SCOPE_OF:
                self._budgets.enter(key)
            scope.setdefault("state", {}).update(key=key, request_id=identity)
            await self._app(scope, _replaying(body, receive), marked)
        except ApiError as error:
            await _answer(error, marked)
        finally:
            self._inside -= counted

    def _check_head(self, headers: list[tuple[bytes, bytes]]) -> None:
        size = sum(len(name) + len(value) for name, value in headers)
        if len(headers) > self._limits.headers or size > self._limits.header_bytes:
            raise ApiError(431, "the request has too many or too long headers")

    def _admitted(self, scope: Scope, headers: dict[bytes, bytes]) -> Key | None:
        """Return whose request it is.

        Raises:
            ApiError: it may not be made.
        """
        if not self._required():
            client = scope.get("client")
            if client and not is_loopback(client[0]):
                raise ApiError(403, "without API keys this server answers to its own machine only")
            if not is_loopback(_host(headers.get(b"host", b"localhost"))):
                raise ApiError(403, "without API keys this server answers under localhost only")
            return None
        if scope["path"] in OPEN:
            return None
        kind, _, text = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        key = self._keys.find(text.strip()) if kind.lower() == "bearer" else None
        if key is None:
            raise ApiError(
                401,
                "this server needs a valid API key, as `Authorization: Bearer KEY`",
                code="invalid_api_key",
            )
        wanted = SCOPE_OF.get(scope["path"])
        if wanted is not None and wanted not in key.scopes:
            raise ApiError(403, f"this key is not for {wanted}", code="insufficient_scope")
        return key

    async def _body(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """Read the body, no more of it than is allowed, and no longer.

        Raises:
            ApiError: it is too long, too slow, or no JSON by its header.
        """
        limit = self._limits.body_bytes
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > limit:
            raise ApiError(413, f"the body is longer than {limit} bytes")
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return b""
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json":
            raise ApiError(415, "the body must be JSON, with content-type application/json")
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(408, "the client went before its request was whole")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise ApiError(413, f"the body is longer than {limit} bytes")
                    more = message.get("more_body", False)
        except TimeoutError:
            raise ApiError(408, f"the body did not arrive within {self._limits.body_seconds:g} s") from None
        return b"".join(parts)


def _host(header: bytes) -> str:
    text = header.decode("latin-1")
    if text.startswith("["):
        return text[1:].split("]")[0]
    return text.rsplit(":", 1)[0] if ":" in text else text


def _identity(given: bytes) -> str:
    text = given.decode("latin-1")
    return text if _IDENTITY.fullmatch(text) else random_hex(16)


def _replaying(body: bytes, receive: Receive) -> Receive:
    """Hand out the body that was read, then what comes after it."""
    handed = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal handed
        if handed:
            return await receive()
        handed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _marking(send: Send, identity: str) -> Send:
    """Put the request's name and the headers that all answers have on what is sent."""

    async def mark(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            added = [(b"x-request-id", identity.encode()), *_SECURITY]
            names = {name for name, _ in added}
            kept = [(name, value) for name, value in message.get("headers", []) if name.lower() not in names]
            message = {**message, "headers": [*kept, *added]}
        await send(message)

    return mark


async def _answer(error: ApiError, send: Send) -> None:
    body = json.dumps(error.body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in error.headers.items()]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
