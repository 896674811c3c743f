"""Preferences that are kept: with consent, masked, by their owner alone; and what is refused."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from codex_ray.serve import feedback

PAIR: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "who is it?"}],
    "chosen": "alice, at alice@company.org",
    "rejected": "sk-proj-" + "a1B2c3D4e5" * 5,
    "how": "rated",
    "consent": True,
}


def test_a_preference_is_kept_with_consent_and_masked(
    serve_with: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "kept" / "preferences.jsonl"
    url = f"{serve_with(feedback=str(file)).url}/v1/feedback"
    assert httpx.get(url).json() == {"kept": True}
    assert httpx.post(url, json=PAIR).json() == {"kept": True}
    (line,) = [json.loads(one) for one in file.read_text().splitlines()]
    assert line["messages"] == PAIR["messages"] and line["how"] == "rated"
    assert line["chosen"] == "alice, at <EMAIL>" and line["rejected"] == "<OPENAI_KEY>"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    answers = {"role": "assistant", "content": "x"}
    for change in (
        {"consent": False},
        {"rejected": f"{PAIR['chosen']} "},
        {"chosen": " "},
        {"messages": [*PAIR["messages"], answers]},
        {"how": "guessed"},
        {"more": 1},
    ):
        assert httpx.post(url, json=PAIR | change).status_code == 400, change
    assert httpx.post(url, json=PAIR | {"model": "other"}).status_code == 404
    monkeypatch.setattr(feedback, "MOST_BYTES", 100)
    assert httpx.post(url, json=PAIR).status_code == 507
    assert len(file.read_text().splitlines()) == 1


def test_without_a_file_nothing_is_kept(url: str) -> None:
    assert httpx.get(f"{url}/v1/feedback").json() == {"kept": False}
    assert httpx.post(f"{url}/v1/feedback", json=PAIR).status_code == 404
