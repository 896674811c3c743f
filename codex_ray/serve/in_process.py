"""A model in the process of the front."""

from __future__ import annotations

import asyncio
from typing import Any

from codex_ray.serve.model_server import ModelServer

CARRIED_SECONDS = 0.001
"""What two cores take to mask, write and send one piece of a stream, Ray being out of the way."""


class InProcess(ModelServer):
    """A model that the front asks as it would ask :class:`~codex_ray.serve.replicas.Replicas`."""

    def __init__(self, settings: dict[str, Any], deployment: str) -> None:
        super().__init__(settings, deployment, carried=CARRIED_SECONDS)

    async def of_all(self, method: str, *arguments: Any, seconds: float) -> list[Any]:
        """Ask the model."""
        async with asyncio.timeout(seconds):
            return [await getattr(self, method)(*arguments)]
