"""What a command says of its machine's end."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import pytest

from codex_ray.train import preemption


@pytest.mark.parametrize(("command", "said"), [("true", True), ("exit 1", False), ("no-such-program", False)])
def test_status_0_announces_the_end(command: str, said: bool) -> None:
    assert preemption.announced(command) is said


def test_a_command_that_does_not_end_says_nothing_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preemption, "COMMAND_SECONDS", 3.0)
    noted = tmp_path / "pid"
    part = shlex.quote(f"echo $$ > {shlex.quote(str(noted))}; exec sleep 120")
    began = time.monotonic()
    assert not preemption.announced(f"sh -c {part} | grep -q TRUE")
    while _lives(int(noted.read_text())):
        assert time.monotonic() - began < 60
        time.sleep(0.05)


def _lives(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(") ")[2][0]
    except FileNotFoundError:
        return False
    return state != "Z"
