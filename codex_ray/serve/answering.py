"""From events to an answer: masking, collecting, streaming, and counting what was drawn."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi.responses import StreamingResponse

from codex_ray.serve.answers import DONE, Answer, TextEvents, event, packed, usage_of
from codex_ray.serve.errors import ApiError
from codex_ray.serve.events import Called, Delta, End, Entry, Event, Failed, Started
from codex_ray.serve.masking import ChoiceText
from codex_ray.serve.tool_calls import CallParser, ToolCalled

GRACE_SECONDS = 10.0
"""How much longer than the engine's own deadline an answer is waited for."""

Events = AsyncGenerator[list[Event], None]


@dataclass
class Account:
    """What a request came to.

    Attributes:
        charge: told of tokens as they are read and drawn; ``close``: called once, when all is over.
        outcome: ``ok``, ``cancelled`` or the code of an error.
        first: seconds until the first text; ``gaps``: between later ones.
        risk: of its prompt, where that was looked at.
    """

    charge: Callable[[int], None] = lambda tokens: None
    close: Callable[[Account], None] = lambda account: None
    prompt_tokens: int = 0
    drawn: dict[int, int] = field(default_factory=dict)
    outcome: str = "cancelled"
    masked: bool = False
    risk: float | None = None
    began: float = field(default_factory=time.perf_counter)
    first: float | None = None
    gaps: list[float] = field(default_factory=list)
    _last: float = 0.0

    @property
    def drawn_tokens(self) -> int:
        """Of all choices."""
        return sum(self.drawn.values())

    def read(self, tokens: int) -> None:
        """Count a prompt."""
        self.prompt_tokens = tokens
        self.charge(tokens)

    def drew(self, choice: int, tokens: int) -> None:
        """Count a choice's tokens, so many in all."""
        self.charge(tokens - self.drawn.get(choice, 0))
        self.drawn[choice] = tokens

    def text_came(self) -> None:
        """Note the time of a piece of text."""
        now = time.perf_counter()
        if self.first is None:
            self.first = now - self.began
        else:
            self.gaps.append(now - self._last)
        self._last = now

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Close with the error that the block raises, if it raises one."""
        try:
            yield
        except BaseException as error:
            self.end(error)
            raise

    def end(self, error: BaseException | None = None) -> None:
        """Close, the first time."""
        if isinstance(error, ApiError):
            self.outcome = error.code or str(error.status)
        elif isinstance(error, Exception):
            self.outcome = "failed"
        close, self.close = self.close, lambda account: None
        close(self)


class Exchange:
    """One request on its way: its events, its answer, and its account.

    Args:
        events: from the engine.
        answer: makes the parts.
        account: counts it.
        choices: how many there are in all.
        tokens: whether tokens were asked for.
        mask: whether secrets are masked.
        seconds: the engine's deadline.
        tools: names of those that the model may call.
    """

    def __init__(
        self,
        events: Events,
        answer: Answer,
        account: Account,
        *,
        choices: int,
        tokens: bool,
        mask: bool,
        seconds: float,
        tools: Collection[str] = (),
    ) -> None:
        self.account = account
        self._events, self._answer = events, answer
        self._tokens = tokens
        self._deadline = asyncio.get_running_loop().time() + seconds + GRACE_SECONDS
        self._texts = [ChoiceText(mask=mask) for _ in range(choices)]
        self._calls = [CallParser(tools) for _ in range(choices)] if tools else []

    async def start(self) -> None:
        """Wait until the request is taken.

        Raises:
            ApiError: it is refused.
        """
        try:
            first = next(iter(await self._next()), None)
            if isinstance(first, Started):
                self.account.read(first.prompt_tokens)
                return
            raise first.error if isinstance(first, Failed) else ApiError(500, "the engine gave no answer")
        except BaseException as error:
            await self.close(error)
            raise

    async def close(self, error: BaseException | None = None) -> None:
        """End it, wherever it is: what is under way is cancelled, the account is closed."""
        try:
            self.account.end(error)
        finally:
            await self._events.aclose()

    async def whole(self) -> bytes:
        """The answer in one piece, as JSON.

        Raises:
            ApiError: it failed on the way.
        """
        texts: dict[int, list[str]] = {}
        entries: dict[int, list[Entry]] = {}
        reasons: dict[int, str] = {}
        calls: dict[int, list[ToolCalled]] = {}
        try:
            async for one in self._shown():
                if isinstance(one, Delta):
                    texts.setdefault(one.choice, []).append(one.text)
                    entries.setdefault(one.choice, []).extend(one.entries)
                elif isinstance(one, Called):
                    calls[one.choice] = one.calls
                else:
                    reasons[one.choice] = one.reason
            self.account.outcome = "ok"
        except BaseException as error:
            await self.close(error)
            raise
        await self.close()
        choices = {
            index: (
                "".join(texts.get(index, [])),
                entries.get(index, []) if self._tokens and not self._texts[index].masked else None,
                reason,
                calls.get(index, []),
            )
            for index, reason in reasons.items()
        }
        return packed(self._answer.whole(choices, self._usage()))

    async def stream(self, *, with_usage: bool) -> AsyncIterator[bytes]:
        """The answer as server-sent events; a failure on the way is an event, too."""
        failure: BaseException | None = None
        texts = TextEvents(self._answer)
        try:
            for index in range(len(self._texts)):
                if (opening := self._answer.opening(index)) is not None:
                    yield event(opening)
            async for one in self._shown():
                if isinstance(one, Delta) and self._tokens:
                    yield event(self._answer.piece(one.choice, one.text, one.entries))
                elif isinstance(one, Delta):
                    yield texts.event(one.choice, one.text)
                elif isinstance(one, Called):
                    yield event(self._answer.calls(one.choice, one.calls))
                else:
                    yield event(self._answer.closing(one.choice, one.reason))
            if with_usage:
                yield event(self._answer.usage(self._usage()))
            self.account.outcome = "ok"
            yield DONE
        except ApiError as error:
            failure = error
            yield b"data: " + json.dumps(error.body).encode() + b"\n\n" + DONE
        except BaseException as error:
            failure = error
            raise
        finally:
            await self.close(failure)

    async def _shown(self) -> AsyncIterator[Delta | Called | End]:
        """What may be shown, choice by choice, and the calls of tools in it.

        Raises:
            ApiError: the engine failed.
        """
        async for one in self._masked():
            if not self._calls:
                yield one
            elif isinstance(one, Delta):
                if (text := self._calls[one.choice].feed(one.text)) or one.entries:
                    yield one._replace(text=text)
            else:
                text, calls = self._calls[one.choice].end()
                if text:
                    yield Delta(one.choice, text, [], one.tokens)
                if calls:
                    yield Called(one.choice, calls)
                yield one._replace(reason="tool_calls") if calls and one.reason == "stop" else one

    async def _masked(self) -> AsyncIterator[Delta | End]:
        """What may be shown, choice by choice, as text.

        Raises:
            ApiError: the engine failed.
        """
        while events := await self._next():
            for one in events:
                if isinstance(one, Failed):
                    raise one.error
                if isinstance(one, Started):
                    continue
                choice = self._texts[one.choice]
                self.account.drew(one.choice, one.tokens)
                if isinstance(one, Delta):
                    self.account.text_came()
                    text, entries = choice.feed(one.text, one.entries)
                else:
                    text, entries = choice.end()
                self.account.masked |= choice.masked
                if text or entries:
                    yield Delta(one.choice, text, entries, one.tokens)
                if isinstance(one, End):
                    yield one

    async def _next(self) -> list[Event]:
        """The next events; none at the end.

        Raises:
            ApiError: the engine, which has deadlines itself, lets its last one pass in silence.
        """
        try:
            async with asyncio.timeout_at(self._deadline):
                return await anext(self._events, [])
        except TimeoutError:
            raise ApiError(504, "the model does not answer; try again", code="deadline") from None

    def _usage(self) -> Any:
        return usage_of(self.account.prompt_tokens, self.account.drawn_tokens)


class EventStream(StreamingResponse):
    """An exchange as a response; it is closed also where its client went before the first event."""

    def __init__(self, exchange: Exchange, *, with_usage: bool) -> None:
        super().__init__(
            exchange.stream(with_usage=with_usage),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
        self._exchange = exchange

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._exchange.close()
