"""API keys and their budgets."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest

from codex_ray.config.serve import Access, Serve, ServeKeys
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.serve import keys as keys_module
from codex_ray.serve.budgets import Budgets
from codex_ray.serve.errors import ApiError
from codex_ray.serve.front import Front
from codex_ray.serve.keys import Key, KeyFile
from codex_ray.serve.keys_verb import keys_verb


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyFile:
    monkeypatch.setattr(keys_module, "LOOK_SECONDS", 0.0)
    return KeyFile(tmp_path / "deep" / "keys.json")


def test_a_key_is_found_by_its_text_and_is_nowhere_in_the_file(file: KeyFile) -> None:
    key, text = file.add("alice")
    assert file.find(text) == key
    for wrong in (
        "",
        "crk",
        text[:-1],
        text + "x",
        text.replace(key.id, "00000000"),
        "crk-é-ü",
        "a" * 10_000,
    ):
        assert file.find(wrong) is None
    written = file.path.read_text()
    assert text not in written and text.split("-", 2)[2] not in written
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_a_reader_sees_added_rotated_and_revoked_keys(file: KeyFile) -> None:
    reader = KeyFile(file.path)
    assert reader.present() == {}
    _, first = file.add("alice", scopes=["embed"])
    assert reader.find(first) is not None
    rotated, second = file.rotate("alice")
    assert reader.find(first) is None
    found = reader.find(second)
    assert found == rotated and rotated.scopes == ["embed"]
    file.revoke(rotated.id)
    assert reader.find(second) is None


def test_a_key_ends_on_its_day(file: KeyFile) -> None:
    _, text = file.add("short", expires=time.time() + 3600)
    assert file.find(text) is not None
    _, text = file.add("over", expires=time.time() - 1)
    assert file.find(text) is None


def test_a_damaged_file_lets_nobody_in_and_is_not_overwritten(file: KeyFile) -> None:
    _, text = file.add("alice")
    file.path.write_text('{"keys": [{"id": 1}]}')
    assert file.find(text) is None
    with pytest.raises(CodexRayError, match=r"damaged .*make new keys"):
        file.add("bob")
    assert "bob" not in file.path.read_text()


@pytest.mark.parametrize("required", ["auto", "always"])
def test_a_key_is_needed_while_its_file_is_damaged(file: KeyFile, required: str) -> None:
    front = Front(Serve(model="m", access=Access(keys=str(file.path), required=required)), {})
    assert front.key_required() is (required == "always")
    file.add("alice")
    front.keys.present()
    assert front.key_required()
    file.path.write_text("{")
    assert front.key_required() and not front.keys.present()


def test_names_are_unique_and_unknown_ones_are_refused(file: KeyFile) -> None:
    file.add("alice")
    with pytest.raises(ConfigError, match="named 'alice' already"):
        file.add("alice")
    with pytest.raises(ConfigError, match="has no key 'bob'"):
        file.revoke("bob")


def test_the_verb_shows_a_key_once(file: KeyFile, capsys: pytest.CaptureFixture[str]) -> None:
    where = str(file.path)
    keys_verb(ServeKeys("add", "alice", where, scopes=["embed"], tokens_per_minute=100.0, expires_days=2.0))
    text = capsys.readouterr().out.splitlines()[0]
    assert file.find(text) is not None
    keys_verb(ServeKeys("list", file=where))
    listed = capsys.readouterr().out
    assert "alice  embed  100 tokens/min  expires 20" in listed and text not in listed
    keys_verb(ServeKeys("revoke", "alice", where))
    assert file.find(text) is None
    with pytest.raises(ConfigError, match="needs a name"):
        keys_verb(ServeKeys("rotate", file=where))


def test_budgets_refuse_and_fill_again() -> None:
    key = Key("1", "a", "", 0.0, requests_per_minute=2.0, tokens_per_minute=600.0)
    budgets = Budgets()
    budgets.enter(key)
    budgets.enter(key)
    with pytest.raises(ApiError, match="2 requests per minute") as refusal:
        budgets.enter(key)
    assert refusal.value.status == 429 and refusal.value.retry_after is not None
    assert 25 <= refusal.value.retry_after <= 31
    other = Key("2", "b", "", 0.0, tokens_per_minute=600.0)
    budgets.enter(other)
    budgets.charge(other, 605)
    with pytest.raises(ApiError, match="600 tokens per minute") as refusal:
        budgets.enter(other)
    assert refusal.value.retry_after in (1, 2)
    budgets._buckets["2", "tokens"].since -= 1.0  # a second passes
    budgets.enter(other)
    for _ in range(100):
        budgets.enter(Key("3", "c", "", 0.0))
