"""The application on Ray Serve: a front before the replicas of models.

``codex_ray.serve.app:build_app`` is the import path of the YAML files that Ray's ``serve run`` and
``serve deploy`` take; its arguments are the settings of ``codex-ray serve``. On a cluster, Ray Serve's proxy
is before the front. ``codex-ray serve`` on this machine alone has :func:`build_alone`: its front listens by
itself, and has a model of one replica in its own process, because each of Ray's hops costs more than the
answer of a small model.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import uuid
from pathlib import Path
from typing import Any

from ray import serve

from codex_ray.config.fields import build, to_dict
from codex_ray.config.serve import Serve
from codex_ray.serve.current import set_current
from codex_ray.serve.front import Front
from codex_ray.serve.guard import Guard
from codex_ray.serve.listening import Listener
from codex_ray.serve.logs import mask_logs
from codex_ray.serve.replicas import Replicas
from codex_ray.serve.routes import build_app as build_routes
from codex_ray.track.registered import is_registered, registered_name

FRONT, MODEL = "front", "model"

COMMIT_SECONDS = 30.0
"""Longest wait for replicas to change to a model that they have ready."""

STARTS = 2
"""How often a replica's start is tried: a folder that cannot be loaded will not be the next time."""


class Ingress:
    """The front in a replica of its own.

    Args:
        settings: of serving, as plain data.
        models: handles by the names that clients use, or the settings of a model in this process.
        deployments: by the same names, where it is kept what each serves now.
    """

    def __init__(self, settings: dict[str, Any], models: dict[str, Any], deployments: dict[str, str]) -> None:
        self._settings = build(Serve, settings)
        if self._settings.guarding.mask_logs:
            mask_logs()
        self._backends = {name: self._backend(name, model, deployments) for name, model in models.items()}
        self._deployments, self._updating = deployments, asyncio.Lock()
        self._guard = build_routes(Front(self._settings, self._backends))

    def _backend(self, name: str, model: Any, deployments: dict[str, str]) -> Any:
        if isinstance(model, dict):
            # With torch, which a front before replicas does without.
            from codex_ray.serve.in_process import InProcess

            return InProcess(model, deployments[name])
        if self._settings.engine.sampler == "vllm":
            from codex_ray.serve.vllm import VllmReplicas

            return VllmReplicas(model, build(Serve, _parts(self._settings)[1][name]))
        return Replicas(model)

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


class Alone(Ingress):
    """A front that listens by itself."""

    async def __init__(self, *given: Any) -> None:  # type: ignore[misc]  # Ray Serve awaits it
        super().__init__(*given)
        self._listener = Listener(self._guard, self._settings)
        await self._listener.start()
        gc.collect()
        gc.freeze()  # what is there now stays: collections need not look at it

    async def drain(self) -> int:
        """See :meth:`Ingress.drain`; answers that slow readers have not taken yet count, too."""
        return self._guard.drain() or self._listener.unsent

    async def check_health(self) -> None:
        """Called by Ray Serve, which replaces a replica that raises here."""
        self._listener.check()
        for one in self._backends.values():
            if not isinstance(one, Replicas):
                await one.check_health()

    def __del__(self) -> None:
        """Called by Ray Serve when the replica ends."""
        with contextlib.suppress(AttributeError):  # where loading the model failed
            self._listener.end()


def build_app(args: dict[str, Any]) -> serve.Application:
    """Make the application of settings as plain data.

    Raises:
        ConfigError: the settings are wrong.
    """
    settings = build(Serve, args)
    plain, models, deployments = _parts(settings)
    front = serve.deployment(serve.ingress()(Ingress)).options(
        **_front_options(settings), max_ongoing_requests=4 * settings.limits.requests_at_once
    )
    return front.bind(plain, _bound(settings, models, deployments), deployments)


def build_alone(args: dict[str, Any]) -> serve.Application:
    """Make the application for a machine of its own, with no proxy before it.

    Raises:
        ConfigError: the settings are wrong.
    """
    settings = build(Serve, args)
    plain, models, deployments = _parts(settings)
    front = serve.deployment(Alone).options(**_front_options(settings))
    own = settings.engine.sampler == "own"
    if own and len(models) == 1 and settings.replicas.min == settings.replicas.max == 1:
        return front.options(name=MODEL, ray_actor_options=_resources(settings)).bind(
            plain, models, deployments
        )
    return front.bind(plain, _bound(settings, models, deployments), deployments)


def _parts(settings: Serve) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """All settings, those of each model by its name, and where it is kept what each serves now."""
    plain = to_dict(settings)
    models = {name_of(settings): plain}
    for name, source in settings.models.items():
        models[name] = {**plain, "model": source, "name": name, "revision": None, "adapters": None}
    return plain, models, {name: uuid.uuid4().hex for name in models}


def _front_options(settings: Serve) -> dict[str, Any]:
    return {
        "name": FRONT,
        "graceful_shutdown_timeout_s": settings.drain_seconds,
        "max_constructor_retry_count": STARTS,
        "ray_actor_options": {"num_cpus": 0},
    }


def _resources(settings: Serve) -> dict[str, Any]:
    return {"num_cpus": settings.replicas.cpus, "num_gpus": settings.replicas.gpus}


def _bound(settings: Serve, models: dict[str, Any], deployments: dict[str, str]) -> dict[str, Any]:
    bound = {}
    for place, (name, own) in enumerate(models.items()):
        called = MODEL if not place else f"{MODEL}-{place}"
        if settings.engine.sampler == "vllm":
            from codex_ray.serve.vllm import vllm_deployment

            bound[name] = vllm_deployment(build(Serve, own), called, _scaling(settings))
        else:
            bound[name] = _deployment(settings, called).bind(own, deployments[name])
    return bound


def _scaling(settings: Serve) -> dict[str, Any]:
    """Ray Serve's options of how many replicas there are."""
    replicas = settings.replicas
    if replicas.max == replicas.min:
        return {"num_replicas": replicas.max}
    return {
        "autoscaling_config": {
            "min_replicas": replicas.min,
            "max_replicas": replicas.max,
            "target_ongoing_requests": replicas.target_requests or settings.engine.slots,
        }
    }


def _deployment(settings: Serve, name: str) -> Any:
    """One model's replicas."""
    from codex_ray.serve.model_server import ModelServer  # torch, which the front does without

    in_work = settings.engine.slots + settings.engine.queue
    return serve.deployment(ModelServer).options(
        name=name,
        # More than the engine takes, so that the engine itself says that it is full, and for how long.
        max_ongoing_requests=4 * in_work,
        max_queued_requests=4 * in_work,
        graceful_shutdown_timeout_s=settings.drain_seconds,
        max_constructor_retry_count=STARTS,
        ray_actor_options=_resources(settings),
        **_scaling(settings),
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
