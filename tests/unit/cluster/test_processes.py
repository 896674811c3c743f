from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from pathlib import Path

import psutil

from codex_ray.cluster.processes import _pinned, end, find, start

# A child that leaves its parent's session and outlives it, and writes its number down.
STRAY = (
    "import subprocess, sys\n"
    "child = subprocess.Popen(['sleep', '100'], start_new_session=True)\n"
    "open(sys.argv[1], 'w').write(str(child.pid))\n"
)


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 20
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return path.read_text()


def test_everything_with_the_mark_is_ended_and_nothing_else(tmp_path):
    mark, other = f"test{os.getpid()}:1:", f"test{os.getpid()}:12:"
    first = start(["sleep", "100"], mark, tmp_path / "log", dict(os.environ))
    stranger = start(["sleep", "100"], other, tmp_path / "log", dict(os.environ))
    start([sys.executable, "-c", STRAY, str(tmp_path / "pid")], mark, tmp_path / "log", dict(os.environ))
    stray = int(wait_for(tmp_path / "pid"))
    assert {process.pid for process in find(mark)} >= {first.pid, stray}
    assert end(mark) == []
    assert not first.alive()
    assert not psutil.pid_exists(stray) or psutil.Process(stray).status() == psutil.STATUS_ZOMBIE
    assert stranger.alive()
    assert end(other) == []
    assert find(f"test{os.getpid()}:") == []


def test_only_the_living_holder_of_another_namespace_stands_for_its_namespace(tmp_path):
    mark = f"again{os.getpid()}:"
    started = start(["sleep", "100"], mark, tmp_path / "log", dict(os.environ))
    assert started.alive()
    earlier = dataclasses.replace(started, at=started.at - 60)
    assert not earlier.alive()
    with contextlib.ExitStack() as pins:
        assert _pinned(pins, earlier) is None  # its process id was used again
        assert _pinned(pins, started) is None  # it lives where we live
    assert end(mark) == []
    with contextlib.ExitStack() as pins:
        assert _pinned(pins, started) is None


def test_an_ended_child_is_not_alive(tmp_path):
    started = start(["true"], f"ended{os.getpid()}:", tmp_path / "log", dict(os.environ))
    deadline = time.monotonic() + 10
    while started.alive():
        assert time.monotonic() < deadline
        time.sleep(0.01)
