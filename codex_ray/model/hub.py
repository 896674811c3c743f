"""Whether the Hub can be reached, found out once and quickly: its own client tries for half a minute."""

from __future__ import annotations

import os
import socket
import threading
from functools import cache
from urllib.parse import urlsplit

from huggingface_hub import constants

SECONDS = 3.0
"""Longest wait for a connection; a name server that does not answer may take longer by itself."""


@cache
def offline() -> bool:
    """Whether only what has been fetched before is there; behind a proxy, that is left to the client."""
    if constants.HF_HUB_OFFLINE:
        return True
    address = urlsplit(constants.ENDPOINT)
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return False
    found: list[bool] = []
    port = address.port or (443 if address.scheme == "https" else 80)
    trial = threading.Thread(target=lambda: found.append(_answers(str(address.hostname), port)), daemon=True)
    trial.start()
    trial.join(SECONDS)
    return found != [True]


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=SECONDS):
            return True
    except OSError:
        return False
