"""A model's replicas on Ray Serve, as the front asks them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException

from codex_ray.serve.calls import Call
from codex_ray.serve.errors import ApiError, overloaded
from codex_ray.serve.events import Event, Failed

ATTEMPTS = 3
"""Replicas that a request is given to when one after another is lost before it answers."""


class Replicas:
    """A model's replicas, by their handle."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._streaming = handle.options(stream=True)

    async def generate(self, call: Call) -> AsyncGenerator[list[Event], None]:
        """Have one of the replicas continue texts."""
        async with aclosing(self._carried(lambda: self._streaming.generate.remote(call))) as parts:
            async for events in parts:
                yield events

    async def _carried(self, ask: Callable[[], Any]) -> AsyncGenerator[Any, None]:
        """What a replica yields, or :class:`Failed`; one that is lost before it has answered is replaced."""
        for attempt in range(ATTEMPTS):
            response, began = ask(), False
            try:
                async for part in response:
                    began = True
                    yield part
                return
            except BackPressureError:
                yield [Failed(overloaded(1))]
                return
            except RayTaskError as error:
                yield [Failed(_failed(error))]
                return
            except (RayError, RayServeException) as error:
                if began or attempt == ATTEMPTS - 1:
                    yield [Failed(_lost(error))]
                    return
            except BaseException:
                # Nobody reads on. One that ended by itself must not be cancelled: it raises.
                with contextlib.suppress(RayError, RayServeException):
                    response.cancel()
                raise

    async def embed(self, call: Call) -> Any:
        """See :meth:`ModelServer.embed`."""
        return await self._ask("embed", call)

    async def tokenize(self, call: Call) -> Any:
        """See :meth:`ModelServer.tokenize`."""
        return await self._ask("tokenize", call)

    async def detokenize(self, ids: list[int]) -> Any:
        """See :meth:`ModelServer.detokenize`."""
        return await self._ask("detokenize", ids)

    async def stand(self) -> dict[str, Any]:
        """See :meth:`ModelServer.stand`; of one replica."""
        found: dict[str, Any] = await self._ask("stand")
        return found

    async def of_all(self, method: str, *arguments: Any, seconds: float) -> list[Any]:
        """Ask all replicas that there are; what they answer, or their errors."""
        asked = self._handle.broadcast(method, *arguments)
        found: list[Any] = await asked.results_async(timeout_s=seconds, return_exceptions=True)
        return found

    async def _ask(self, method: str, *arguments: Any) -> Any:
        for attempt in range(ATTEMPTS):
            try:
                return await getattr(self._handle, method).remote(*arguments)
            except BackPressureError:
                raise overloaded(1) from None
            except RayTaskError as error:
                raise _failed(error) from error
            except (RayError, RayServeException) as error:
                if attempt == ATTEMPTS - 1:
                    raise _lost(error) from error
        raise AssertionError


def _failed(error: RayTaskError) -> ApiError:
    """The error of what was raised in a replica, where all that is foreseen is an answer."""
    logging.getLogger("ray.serve").error("a replica failed: %s", error)
    return ApiError(500, f"the model failed ({type(error.cause).__name__})", code="engine")


def _lost(error: Exception) -> ApiError:
    kind = type(error).__name__
    return ApiError(
        503, f"the model's replica was lost ({kind}); try again", code="replica_lost", retry_after=1
    )
