"""What a command says of its machine's end."""

from __future__ import annotations

import time

import pytest

from codex_ray.train import preemption


@pytest.mark.parametrize(("command", "said"), [("true", True), ("exit 1", False), ("no-such-program", False)])
def test_status_0_announces_the_end(command: str, said: bool) -> None:
    assert preemption.announced(command) is said


def test_a_command_that_does_not_end_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preemption, "COMMAND_SECONDS", 0.2)
    began = time.monotonic()
    assert not preemption.announced("sleep 30")
    assert time.monotonic() - began < 20
