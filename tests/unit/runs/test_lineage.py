"""A tree of what a model was made from: drawn, checked, and told where something is gone or changed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from codex_ray import cli
from codex_ray.files import write_json
from codex_ray.model.lineage import LINEAGE, derived, lineage, record_of, weights_of
from tests.unit.evaluate.small_corpus import make_corpus


def write_model(folder: Path, record: dict, weights: bytes) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    write_json(folder / LINEAGE, {**record, "weights": weights_of(folder)})
    return folder


@pytest.fixture
def life(tmp_path: Path) -> Path:
    """A pretrained run of a corpus, one tuned from it, and what was exported of that."""
    corpus = replace(make_corpus(tmp_path / "corpus"), sources={"text": {"path": str(tmp_path / "no text")}})
    corpus.save()
    first, chat = tmp_path / "runs" / "first", tmp_path / "runs" / "chat"
    known = {"corpus": corpus.folder}
    record = lineage(corpus.life_id, str(first), corpus.fingerprint, verb="pretrain", **known)
    write_model(first / "model", record, b"one")
    write_json(
        first / "environment.json", {"time": "2026-01-02", "commit": {"commit": "a" * 40, "dirty": True}}
    )
    record = lineage(corpus.life_id, str(chat), corpus.fingerprint, verb="finetune", **known, origin=first)
    write_model(chat / "model", record, b"two")
    made = derived(chat / "model", "export")
    assert made is not None
    write_model(tmp_path / "exported", made, b"three")
    return tmp_path


def test_the_tree_goes_back_to_the_text(life: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lineage", str(life / "exported"), "deep=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    kinds = [line.lstrip(" │├└─").split()[:2] for line in lines]
    corpus = ["corpus", str(life / "corpus")]
    expected = [
        ["model", str(life / "exported")],
        ["model", str(life / "runs/chat/model")],
        ["run", str(life / "runs/chat")],
        corpus,
        ["model", str(life / "runs/first/model")],
        ["run", str(life / "runs/first")],
        corpus,
    ]
    assert [kind for kind in kinds if kind[0] != "source"] == expected
    assert any(line.endswith(f"source {life / 'no text'} (gone): text") for line in lines)
    assert all("(sound)" in line for line in lines if "model /" in line or "corpus /" in line)
    assert "pretrain · 2026-01-02 · commit aaaaaaaaaaaa and changes" in "\n".join(lines)


def test_a_parent_that_is_gone_is_still_told_of(life: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(life / "runs")
    shutil.rmtree(life / "corpus")
    assert cli.main(["lineage", str(life / "exported"), "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    (chat,) = tree["made_from"]
    (run,) = chat["made_from"]
    corpus, first = run["made_from"]
    assert {one["state"] for one in (chat, run, corpus, first)} == {"gone"}
    assert first["path"] == str(life / "runs/first")


@pytest.mark.parametrize("what", ["weights", "record", "rows"])
def test_what_is_not_what_it_was_is_named(life: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    if what == "weights":
        changed = life / "runs/first/model/model.safetensors"
        changed.write_bytes(b"two")
    elif what == "record":
        changed = life / "runs/first/model"
        (changed / "model.safetensors").write_bytes(b"new")
        write_json(changed / LINEAGE, {**(record_of(changed) or {}), "weights": weights_of(changed)})
    else:
        changed = next((life / "corpus").glob("train/*shard*"))
        data = bytearray(changed.read_bytes())
        data[len(data) // 2] ^= 1
        changed.write_bytes(data)
    assert cli.main(["lineage", str(life / "exported"), "deep=true"]) == 1
    named = life / ("corpus" if what == "rows" else "runs/first/model")
    assert f"error: {named}" in capsys.readouterr().err


def test_what_was_not_made_here_is_said(
    tmp_path: Path, life: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    assert cli.main(["lineage", str(foreign)]) == 1
    assert "has no lineage.json" in capsys.readouterr().err
    assert derived(foreign, "export") is None
    write_model(
        life / "tuned", lineage("x" * 32, str(life / "runs/tuned"), "y", origin="Qwen/Qwen3-0.6B"), b"4"
    )
    assert cli.main(["lineage", str(life / "tuned")]) == 0
    assert "model Qwen/Qwen3-0.6B (not made here)" in capsys.readouterr().out
    assert cli.main(["lineage", str(tmp_path / "nothing")]) == 1
    assert cli.main(["lineage", str(life / "corpus")]) == 0
