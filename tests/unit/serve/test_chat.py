"""The terminal's conversation, with a folder and with an endpoint."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from codex_ray.config.common import Device
from codex_ray.config.serve import Chat
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.serve.chat import chat_verb


def talk(monkeypatch: pytest.MonkeyPatch, said: str, model: str, **settings: Any) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    chat_verb(
        Chat(model, seed=1, temperature=0.0, max_tokens=6, compute=Device("cpu", "float32"), **settings)
    )


def test_a_folder_and_its_endpoint_say_the_same(
    url: str,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    talk(monkeypatch, "hi\n", str(model_folder), history=str(tmp_path / "a.jsonl"))
    here = capsys.readouterr().out
    talk(monkeypatch, "hi\n\n/again\n", url)
    there = capsys.readouterr().out
    assert here.strip() and there.count(here) == 2
    kept = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [one["role"] for one in kept] == ["user", "assistant"] and kept[1]["content"] == here[:-1]
    talk(monkeypatch, "/new\n/again\n/quit\nhi\n", url, history=str(tmp_path / "a.jsonl"))
    assert capsys.readouterr().out == "" and (tmp_path / "a.jsonl").read_text() == ""


def test_a_terminal_is_told_what_its_commands_are(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("tests.unit.serve.test_chat.io.StringIO", Terminal)
    (tmp_path / "kept").write_text('{"role": "user", "content": "hi"}\n')
    talk(monkeypatch, "/help\n/new\n/quit\n", url, history=str(tmp_path / "kept"))
    said = capsys.readouterr().out
    assert (
        "earlier messages taken up: 1" in said
        and said.count("/again answers anew") == 2
        and "(forgotten)" in said
    )


def test_what_cannot_be_talked_with_is_refused(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="name is for endpoints"):
        talk(monkeypatch, "hi\n", str(model_folder), name="x")
    (tmp_path / "bad").write_text("[1]\n")
    with pytest.raises(CodexRayError, match="holds no conversation"):
        talk(monkeypatch, "hi\n", str(model_folder), history=str(tmp_path / "bad"))
    with pytest.raises(CodexRayError, match="does not answer"):
        talk(monkeypatch, "hi\n", "http://127.0.0.1:9")
    with pytest.raises(CodexRayError, match="shorten the prompt"):
        talk(monkeypatch, "hi " * 200 + "\n", str(model_folder))
