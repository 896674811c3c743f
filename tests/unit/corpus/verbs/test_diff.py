from __future__ import annotations

import json
import shutil

import pytest

from codex_ray import cli
from codex_ray.corpus.verbs import shared
from codex_ray.errors import CodexRayError
from tests.unit.corpus.verbs import small


@pytest.fixture
def less(verb, packed, tmp_path):
    verb("remove", packed.folder, f"output={tmp_path / 'less'}", "names=[folder/000.txt,folder/10?.txt]")
    return tmp_path / "less"


def test_equal_corpora_are_equal_wherever_they_are(verb, packed, tmp_path, capsys):
    shutil.copytree(packed.folder, tmp_path / "copy")
    assert verb("diff", packed.folder, tmp_path / "copy").lines == []
    assert packed.fingerprint in capsys.readouterr().out


def test_the_statuses_are_those_of_diff(packed, less, capsys):
    words = ["corpus", "diff", str(packed.folder)]
    assert cli.main([*words, str(packed.folder), "progress=off"]) == 0
    assert cli.main([*words, str(less), "progress=off"]) == 1
    assert cli.main([*words]) == 2


@pytest.mark.parametrize("lines", [2**19, 8])
def test_documents_of_one_side_are_named(verb, packed, less, tmp_path, capsys, monkeypatch, lines):
    monkeypatch.setattr(shared, "BUCKET_LINES", lines)
    with pytest.raises(CodexRayError, match="differ; what differs is printed above"):
        verb("diff", packed.folder, less, f"output={tmp_path / 'changed.jsonl'}", "names=3")
    out = capsys.readouterr().out
    for words in (
        ["documents", "only", "in", "the", "first", "11"],
        ["documents", "only", "in", "the", "second", "0"],
        ["source", "notes.kept", "was", "30", "and", "is", "20"],
        ["settings", "removed", "is", "only", "in", "the", "second"],
    ):
        assert words in [line.split() for line in out.splitlines()]
    assert sum(": prose/folder/" in line or ": notes/folder/" in line for line in out.splitlines()) == 3
    found = [json.loads(line) for line in (tmp_path / "changed.jsonl").read_text().splitlines()]
    assert {record["name"] for record in found} == {
        "folder/000.txt",
        *(f"folder/10{digit}.txt" for digit in range(10)),
    }
    assert {(record["kind"], record["corpus"]) for record in found} == {("only in the first", 1)}


def test_documents_in_another_split_are_named(verb, made, tmp_path, capsys):
    small.corpus(tmp_path / "other", prepare=small.settings(seed=8))
    with pytest.raises(CodexRayError):
        verb("diff", made["contiguous"].folder, tmp_path / "other", f"output={tmp_path / 'changed.jsonl'}")
    found = [json.loads(line) for line in (tmp_path / "changed.jsonl").read_text().splitlines()]
    assert {record["kind"] for record in found} == {"in another split"}
    splits: dict[str, set[str]] = {}
    for record in found:
        splits.setdefault(record["sha256"], set()).add(f"{record['corpus']} {record['split']}")
    assert len(splits) > 10
    assert all(len(places) == 2 for places in splits.values())
    assert "seed was 7 and is 8" in capsys.readouterr().out


def test_other_packing_of_the_same_documents_is_a_difference_of_files_alone(verb, made, capsys):
    with pytest.raises(CodexRayError):
        verb("diff", made["contiguous"].folder, made["best_fit"].folder)
    out = capsys.readouterr().out
    assert "documents the same in every split" in " ".join(out.split())
    assert "pack.method was contiguous and is best_fit" in out


def test_the_manifests_alone_can_be_compared(verb, packed, less, capsys):
    with pytest.raises(CodexRayError):
        verb("diff", packed.folder, less, "documents=false")
    assert "only in the first    11" not in capsys.readouterr().out
