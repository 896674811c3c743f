"""What an engine says of a request, from its thread through Ray to the front."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import NamedTuple

from codex_ray.serve.errors import ApiError
from codex_ray.serve.tool_calls import ToolCalled


class Alternative(NamedTuple):
    """A token that might have been drawn, and the log of its probability under the model."""

    text: str
    bytes: list[int]
    logprob: float


class Entry(NamedTuple):
    """A token of a text; ``logprob`` is None for a prompt's first, which nothing predicts."""

    text: str
    bytes: list[int]
    logprob: float | None
    top: list[Alternative]


class Started(NamedTuple):
    """The request was taken."""

    prompt_tokens: int


class Delta(NamedTuple):
    """More text of a choice, with the tokens that it comes from where these were asked for.

    Attributes:
        tokens: drawn so far for this choice.
    """

    choice: int
    text: str
    entries: list[Entry]
    tokens: int = 0


class End(NamedTuple):
    """A choice is whole; ``reason`` is ``stop`` or ``length``."""

    choice: int
    reason: str
    tokens: int


class Failed(NamedTuple):
    """Nothing more comes."""

    error: ApiError


class Called(NamedTuple):
    """The calls of tools in which a choice ends."""

    choice: int
    calls: list[ToolCalled]


Event = Started | Delta | End | Failed


def merged(events: list[Event]) -> list[Event]:
    """Events with the texts of a choice that come together put into one."""
    found: list[Event] = []
    last: dict[int, int] = {}  # of each choice, the place of its text
    for one in events:
        place = last.get(one.choice) if isinstance(one, Delta) else None
        if isinstance(one, Delta) and place is not None:
            before = found[place]
            assert isinstance(before, Delta)
            found[place] = Delta(
                one.choice, before.text + one.text, [*before.entries, *one.entries], one.tokens
            )
            continue
        if isinstance(one, Delta):
            last[one.choice] = len(found)
        found.append(one)
    return found


class Mailbox:
    """Events on their way from the engine's thread to the event loop that made this.

    Whoever takes gets all there are: a slow reader gets fewer and larger pieces, and holds nobody up.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: deque[Event] = deque()
        self._ready = asyncio.Event()

    def put(self, *events: Event) -> None:
        """Add events, from any thread."""
        self._events.extend(events)
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever would read them
            self._loop.call_soon_threadsafe(self._ready.set)

    async def take(self) -> list[Event]:
        """Wait until there are events and take all of them."""
        await self._ready.wait()
        self._ready.clear()
        return [self._events.popleft() for _ in range(len(self._events))]
