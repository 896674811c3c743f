"""A sandbox for all tests of a file."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from codex_ray.sandbox.sandbox import Sandbox
from tests.unit.sandbox.sandboxes import LIMITS, server_of


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    os.environ["CODEX_RAY_TEST_SECRET"] = "swordfish"
    try:
        with Sandbox(LIMITS) as made:
            yield made
            assert made.call("def f(): return 1", "f").value == 1  # after all that was done to it
            server = server_of(made)
        assert not server.is_running()
    finally:
        del os.environ["CODEX_RAY_TEST_SECRET"]
