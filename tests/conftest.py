"""What all tests share."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest

# The same examples every time, so that a change is judged by itself; HYPOTHESIS_PROFILE=random looks further.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.register_profile("random", derandomize=False, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# Tests that run in the background of a script ignore Ctrl-C, and so would every command that they start;
# a handler is not handed down, so with this those commands start as in a terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def popen() -> Iterator[Callable[..., subprocess.Popen[Any]]]:
    """Start processes that do not outlive the test, however it ends."""
    started: list[subprocess.Popen[Any]] = []

    def start(*args: Any, **kwargs: Any) -> subprocess.Popen[Any]:
        started.append(subprocess.Popen(*args, **kwargs))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait(30)
