"""A Hub that cannot be reached is found out quickly, and said in one sentence."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from huggingface_hub import constants

from codex_ray.cluster.ray_node import free_ports
from codex_ray.errors import CodexRayError
from codex_ray.model.hub import offline
from codex_ray.model.load import load_config, load_model


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free_ports(1)[0]}")
    offline.cache_clear()
    yield
    offline.cache_clear()


@pytest.mark.usefixtures("unreachable")
def test_a_name_that_the_hub_might_have_fails_fast_where_there_is_none() -> None:
    for load in (load_config, load_model):
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(CodexRayError, match=r"it cannot be reached.*hf download") as failure:
                load("codex-ray-tests/nothing")
            assert "\n" not in str(failure.value)
        assert time.monotonic() - began < 10  # the first imports much


def test_behind_a_proxy_the_client_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    offline.cache_clear()
    assert not offline()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline.cache_clear()
    assert offline()
    offline.cache_clear()
