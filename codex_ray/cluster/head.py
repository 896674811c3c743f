"""Whether the cluster's head still answers. Ray itself waits a minute, then ends the process unasked."""

from __future__ import annotations

import socket
import time

from codex_ray.errors import CodexRayError

LOOK_SECONDS = 2.0
CONNECT_SECONDS = 2.0
SILENT_SECONDS = 20.0  # ending well takes Ray some seconds more, within its minute


class HeadWatch:
    """Looks at the head now and then; :meth:`look` is called again and again."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._looked = self._answered = time.monotonic()
        self._missed = 0  # looks in a row; after a pause of this process the first says nothing

    def look(self) -> None:
        """Try to reach the head, at most every few seconds.

        Raises:
            CodexRayError: it has not answered for too long.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        gone = self.gone()
        if gone is None:
            self._answered, self._missed = time.monotonic(), 0
            return
        self._missed += 1
        if self._missed > 1 and now - self._answered > SILENT_SECONDS:
            raise gone

    def gone(self) -> CodexRayError | None:
        """Return what to tell the user where the head does not answer now, None where it does."""
        try:
            socket.create_connection((self._host, self._port), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            return CodexRayError(
                f"the cluster's head at {self._host}:{self._port} does not answer ({error}); start the "
                "cluster again, then run the same command with resume=auto"
            )
        return None
