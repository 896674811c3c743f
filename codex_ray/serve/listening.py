"""Listening for clients without Ray Serve's proxy."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn

from codex_ray.config.serve import Serve
from codex_ray.errors import CodexRayError

START_SECONDS = 10.0


class Listener:
    """An application at the host and port of the settings, by HTTPS where they name a certificate."""

    def __init__(self, app: Any, settings: Serve) -> None:
        self._place = (settings.host, settings.port)
        config = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,  # whoever is on this machine could name any address
            ssl_certfile=settings.tls.certificate,
            ssl_keyfile=settings.tls.key,
        )
        self._server = uvicorn.Server(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            CodexRayError: the place is taken, or cannot be listened on.
        """
        host, port = self._place
        listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(self._place)
        except OSError as error:
            listening.close()
            raise CodexRayError(
                f"port {port} of {host} cannot be listened on ({error.strerror}); give another with port=N"
            ) from error
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]))
        async with asyncio.timeout(START_SECONDS):
            while not self._server.started and not self._task.done():
                await asyncio.sleep(0.01)
        self.check()

    def check(self) -> None:
        """See whether it still listens.

        Raises:
            RuntimeError: it does not.
        """
        if self._task is None or self._task.done():
            raise RuntimeError("the server does not listen any more")

    @property
    def unsent(self) -> int:
        """Answers of which something has not been taken by the network yet."""
        transports = [one.transport for one in self._server.server_state.connections]
        return sum(one.get_write_buffer_size() > 0 for one in transports)

    def end(self) -> None:
        """Take no more connections."""
        self._server.should_exit = True
