"""Alerts: one sentence to a webhook when a run fails, stalls, jumps or ends.

The body is JSON: ``run``, ``kind``, ``step``, ``sentence`` and ``time`` (unix), and ``text``, which Slack and
what is compatible with it show. A thread sends; a webhook that fails is one warning, and the run goes on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from codex_ray.config import common
from codex_ray.config.fields import MASK
from codex_ray.errors import Interrupted

URL_VARIABLE = "CODEX_RAY_ALERTS_URL"
TRY_SECONDS = 10.0
TRIES = 2
PAUSE_SECONDS = 1.0  # between tries

_LOG = logging.getLogger(__name__)


class Alerts:
    """Sends a run's alerts; does nothing without an address.

    As a ``with`` block, an error that ends the block is told, as a failure or, where the user stopped the
    run, as its end.

    Args:
        settings: the ``track.alerts`` settings; a run begun from saved ones, where the address is
            masked, takes it from the environment variable CODEX_RAY_ALERTS_URL.
        run: the run's name.

    Attributes:
        step: the newest optimizer step, for alerts that name none.
    """

    def __init__(self, settings: common.Alerts, run: str) -> None:
        self.step: int | None = None
        self._on, self._run = settings.on, run
        self._warned = False
        self._url = settings.url if settings.url != MASK else None
        self._url = self._url or os.environ.get(URL_VARIABLE) or None
        self._waiting: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        if self._url is not None:
            self._thread = threading.Thread(target=self._serve, name="alerts", daemon=True)
            self._thread.start()
        elif settings.url == MASK:
            _LOG.warning(
                "no alerts are sent, for saved settings do not hold track.alerts.url; give it, or set %s",
                URL_VARIABLE,
            )

    def send(self, kind: str, sentence: str, step: int | None = None) -> None:
        """Queue one alert, if its kind is asked for."""
        if self._thread is None or kind not in self._on:
            return
        step = self.step if step is None else step
        where = "" if step is None else f" at step {step}"
        body = {"run": self._run, "kind": kind, "step": step, "sentence": sentence, "time": time.time()}
        self._waiting.put(body | {"text": f"{self._run}, {kind}{where}: {sentence}"})

    def close(self) -> None:
        """Wait until what was queued is sent or given up, for the time of one alert at the most."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(TRIES * (TRY_SECONDS + PAUSE_SECONDS))
            self._thread = None

    def __enter__(self) -> Alerts:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Interrupted | KeyboardInterrupt):
            self.send("end", str(error) or "stopped at once")
        elif error is not None:
            self.send("failure", str(error) or type(error).__name__)
        self.close()

    def _serve(self) -> None:
        while (body := self._waiting.get()) is not None:
            problem = self._tried(body)
            if problem is not None and not self._warned:
                host = urlsplit(str(self._url)).hostname
                reason = str(problem).replace(str(self._url), MASK).strip().split("\n")[0]
                _LOG.warning(
                    "the webhook at %s did not take an alert (%s: %s); the run goes on, and later alerts are "
                    "tried",
                    host,
                    type(problem).__name__,
                    reason[:200] or "no answer in time",
                )
                self._warned = True

    def _tried(self, body: dict[str, Any]) -> Exception | None:
        problem: Exception | None = None
        for attempt in range(TRIES):
            if attempt:
                time.sleep(PAUSE_SECONDS)
            try:
                asyncio.run(_post(str(self._url), body))
                return None
            except Exception as error:  # whatever a webhook does, training goes on
                problem = error
        return problem


async def _post(url: str, body: dict[str, Any]) -> None:
    """Send one alert.

    Raises:
        Exception: it was not taken within the time.
    """
    import aiohttp

    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TRY_SECONDS), trust_env=True) as session,
        session.post(
            url,
            data=json.dumps(body, ensure_ascii=False).encode(),
            headers={"Content-Type": "application/json"},
            allow_redirects=False,  # a POST that is sent on becomes a GET and says nothing
        ) as answer,
    ):
        if not 200 <= answer.status < 300:
            raise OSError(f"status {answer.status}")
