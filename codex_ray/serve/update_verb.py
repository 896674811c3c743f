"""``codex-ray serve update``: another model in a running server, without a request lost."""

from __future__ import annotations

import time

from codex_ray.cluster.session import open_session
from codex_ray.config.common import Cluster
from codex_ray.config.serve import ServeUpdate
from codex_ray.errors import CodexRayError
from codex_ray.serve.verb import APP, absolute_model


def update_verb(settings: ServeUpdate) -> None:
    """Have a running server's replicas load a model, try it, and go over to it.

    Raises:
        CodexRayError: there is no server, or the model cannot be served; then the old one goes on.
    """
    source, began = absolute_model(settings.model), time.monotonic()
    with open_session(Cluster(address=settings.address or "auto")):
        from ray import serve
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        if APP not in serve.status().applications:
            raise CodexRayError("no server runs on this Ray cluster; start one with `codex-ray serve MODEL`")
        asked = serve.get_app_handle(APP).update.remote(settings.name, source, settings.seconds)
        try:
            name, refused = asked.result(timeout_s=settings.seconds + 60)
        except (RayError, RayServeException, TimeoutError) as error:
            raise CodexRayError(
                f"the server did not say how the update went ({type(error).__name__})"
            ) from error
        if refused is not None:
            raise CodexRayError(f"{name} goes on as it was: {refused}")
    print(f"{name} is {source} now, after {time.monotonic() - began:.1f} s")
