"""A place for one actor: started with a deadline, asked with a deadline, replaced when it is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError


class Lost(Exception):
    """An actor died, or did not answer in time; ``late`` says which."""

    def __init__(self, reason: str, *, late: bool) -> None:
        super().__init__(reason)
        self.late = late


class Lane:
    """One actor after another in the same place.

    Args:
        name: of the place, for sentences.
        spawn: starts an actor that has a method ``start``.
    """

    def __init__(self, name: str, spawn: Callable[[], Any]) -> None:
        self.name = name
        self.up = False
        self.started = 0
        self._spawn = spawn
        self._actor: Any = None
        self._busy = 0.0
        self._since: float | None = None

    @property
    def actor(self) -> str:
        """Name of the present actor."""
        return f"{self.name} (start {self.started})"

    @property
    def working(self) -> bool:
        """Whether it is doing something."""
        return self._since is not None

    def busy_seconds(self) -> float:
        """Seconds that it has worked since the beginning, what it is doing now included."""
        running = 0.0 if self._since is None else time.monotonic() - self._since
        return self._busy + running

    async def start(self, seconds: float) -> Any:
        """Start an actor, and return what its ``start`` returns.

        Raises:
            Lost: it died, or was not there in time.
            Exception: whatever ``start`` raised.
        """
        self.kill()
        self.started += 1
        self._actor = self._spawn()
        answer = await self._answer(self._actor.start.remote(), seconds)
        self.up = True
        return answer

    async def ask(self, method: str, *arguments: Any, seconds: float) -> Any:
        """Call a method of the actor.

        Raises:
            Lost: the actor died or did not answer in time; it is gone then.
            Exception: whatever the method raised.
        """
        self._since = time.monotonic()
        try:
            return await self._answer(getattr(self._actor, method).remote(*arguments), seconds)
        except Lost:
            self.kill()
            raise
        finally:
            self._busy, self._since = self.busy_seconds(), None

    async def process(self, seconds: float) -> int:
        """Return the actor's process number."""
        number: int = await self._answer(self._actor.process.remote(), seconds)
        return number

    def kill(self) -> None:
        """End the actor, if there is one."""
        if self._actor is not None:
            ray.kill(self._actor)
        self._actor, self.up = None, False

    async def _answer(self, reference: Any, seconds: float) -> Any:
        future = asyncio.wrap_future(reference.future())
        done, _ = await asyncio.wait({future}, timeout=seconds)
        if not done:
            future.add_done_callback(_forget)
            raise Lost(f"{self.actor} did not answer within {seconds:g} s", late=True)
        try:
            return future.result()
        except RayTaskError as error:
            raise _cause(error) from None
        except RayActorError as error:
            first = str(error).strip().splitlines()[0]
            raise Lost(f"{self.actor} died ({first[:200]})", late=False) from None


def _forget(future: asyncio.Future[Any]) -> None:
    """Look at a late answer, so that nobody is told of an error that nobody asked for."""
    if not future.cancelled():
        future.exception()


def _cause(error: RayTaskError) -> BaseException:
    cause = error.cause
    return cause if isinstance(cause, BaseException) else error
