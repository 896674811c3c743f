"""The application on Ray Serve: a front before the replicas of a model.

``codex_ray.serve.app:build_app`` is the import path of the YAML files that Ray's ``serve run`` and
``serve deploy`` take; its arguments are the settings of ``codex-ray serve``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException

from codex_ray.config.fields import build, to_dict
from codex_ray.config.serve import Serve
from codex_ray.serve.calls import Call
from codex_ray.serve.current import set_current
from codex_ray.serve.errors import ApiError, overloaded
from codex_ray.serve.events import Event, Failed
from codex_ray.serve.front import Front
from codex_ray.serve.guard import Guard
from codex_ray.serve.logs import mask_logs
from codex_ray.serve.routes import build_app as build_routes
from codex_ray.track.registered import is_registered, registered_name

FRONT, MODEL = "front", "model"

ATTEMPTS = 3
"""Replicas that a request is given to when one after another is lost before it answers."""

COMMIT_SECONDS = 30.0
"""Longest wait for replicas to change to a model that they have ready."""

STARTS = 2
"""How often a replica's start is tried: a folder that cannot be loaded will not be the next time."""


class Replicas:
    """A model's replicas, by their handle."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._streaming = handle.options(stream=True)

    async def generate(self, call: Call) -> AsyncGenerator[list[Event], None]:
        """Have one of the replicas continue texts; one that is lost before it has answered is replaced."""
        for attempt in range(ATTEMPTS):
            response, began = self._streaming.generate.remote(call), False
            try:
                async for events in response:
                    began = True
                    yield events
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


class Ingress:
    """The front in a replica of its own.

    Args:
        settings: of serving, as plain data.
        models: handles by the names that clients use.
        deployments: by the same names, where it is kept what each serves now.
    """

    def __init__(self, settings: dict[str, Any], models: dict[str, Any], deployments: dict[str, str]) -> None:
        built = build(Serve, settings)
        if built.guarding.mask_logs:
            mask_logs()
        self._backends = {name: Replicas(handle) for name, handle in models.items()}
        self._deployments, self._updating = deployments, asyncio.Lock()
        self._guard = build_routes(Front(built, self._backends))

    def __serve_build_asgi_app__(self) -> Guard:  # the name that Ray Serve asks for
        return self._guard

    async def drain(self) -> int:
        """Take no more requests; how many are still in work."""
        return self._guard.drain()

    async def update(self, name: str | None, source: str, seconds: float) -> tuple[str, str | None]:
        """Have every replica of a model change to another; returns its name, and why not, if not.

        All load the new model and try it first; where one cannot, nothing changes.
        """
        name = name if name is not None else next(iter(self._backends))
        if name not in self._backends:
            return name, f"the server has no model {name}, only {', '.join(self._backends)}"
        if self._updating.locked():
            return name, "another update is under way"
        async with self._updating:
            replicas = self._backends[name]
            try:
                told = await replicas.of_all("prepare", source, seconds=seconds)
                refused = [str(one) for one in told if one is not None]
                if not told:
                    refused = ["no replica is there to try it"]
                if not refused:
                    set_current(self._deployments[name], source)
                    await replicas.of_all("commit", seconds=COMMIT_SECONDS)
                    return name, None
            except TimeoutError:
                refused = [f"it was not ready within {seconds:g} s"]
            with contextlib.suppress(TimeoutError):
                await replicas.of_all("discard", seconds=COMMIT_SECONDS)
        return name, refused[0]


def build_app(args: dict[str, Any]) -> serve.Application:
    """Make the application of settings as plain data.

    Raises:
        ConfigError: the settings are wrong.
    """
    settings = build(Serve, args)
    front = serve.deployment(serve.ingress()(Ingress)).options(
        name=FRONT,
        max_ongoing_requests=4 * settings.limits.requests_at_once,
        graceful_shutdown_timeout_s=settings.drain_seconds,
        ray_actor_options={"num_cpus": 0},
    )
    plain = to_dict(settings)
    models = {name_of(settings): plain}
    for name, source in settings.models.items():
        models[name] = {**plain, "model": source, "name": name, "revision": None, "adapters": None}
    deployments = {name: uuid.uuid4().hex for name in models}
    bound = {
        name: _deployment(settings, MODEL if not place else f"{MODEL}-{place}").bind(own, deployments[name])
        for place, (name, own) in enumerate(models.items())
    }
    return front.bind(plain, bound, deployments)


def _deployment(settings: Serve, name: str) -> Any:
    """One model's replicas."""
    from codex_ray.serve.model_server import ModelServer  # torch, which the front does without

    engine, replicas = settings.engine, settings.replicas
    in_work = engine.slots + engine.queue
    scaling: dict[str, Any] = {"num_replicas": replicas.max}
    if replicas.max > replicas.min:
        scaling = {
            "autoscaling_config": {
                "min_replicas": replicas.min,
                "max_replicas": replicas.max,
                "target_ongoing_requests": replicas.target_requests or engine.slots,
            }
        }
    return serve.deployment(ModelServer).options(
        name=name,
        # More than the engine takes, so that the engine itself says that it is full, and for how long.
        max_ongoing_requests=4 * in_work,
        max_queued_requests=4 * in_work,
        graceful_shutdown_timeout_s=settings.drain_seconds,
        max_constructor_retry_count=STARTS,
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        **scaling,
    )


def name_of(settings: Serve) -> str:
    """What clients call the model: its name, or its folder's."""
    if settings.name is not None:
        return settings.name
    if is_registered(settings.model):
        return registered_name(settings.model)
    folder = Path(settings.model).expanduser()
    if not folder.is_dir():
        return settings.model
    name = folder.resolve().name
    return folder.resolve().parent.name if name == "model" else name
