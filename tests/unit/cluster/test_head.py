"""A head that is gone is noticed, one that is away for a moment is not."""

from __future__ import annotations

import socket

import pytest

from codex_ray.cluster import head
from codex_ray.errors import CodexRayError


def test_silence_counts_from_the_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(head.time, "monotonic", lambda: now[0])
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    watch = head.HeadWatch(f"127.0.0.1:{port}")
    for seconds in (10.0, 30.0, 60.0):
        now[0] = seconds
        watch.look()
    paused = head.HeadWatch(f"127.0.0.1:{port}")
    listening.close()
    now[0] = 95.0
    paused.look()
    now[0] = 98.0
    with pytest.raises(CodexRayError, match="does not answer"):
        paused.look()
    now[0] = 75.0
    watch.look()
    assert watch.gone() is not None
    now[0] = 79.0
    watch.look()
    now[0] = 81.0
    with pytest.raises(CodexRayError, match=rf"head at 127.0.0.1:{port} does not answer .*refused"):
        watch.look()
