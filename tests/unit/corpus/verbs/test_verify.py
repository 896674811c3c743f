from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from codex_ray import cli
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.tokenising import INDEX
from codex_ray.errors import CodexRayError
from codex_ray.files import sha256_of


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def reseal(folder: Path, split: str, change: Callable[[list[dict]], list[dict]]) -> None:
    """Change the first source's index and give the manifest the hash of what is then there."""
    manifest = Manifest.load(folder)
    info = manifest.splits[split]
    source = info.sources[0]
    path = folder / source.index_files[0].path
    lines = change(pq.read_table(path, partitioning=None).to_pylist())
    pq.write_table(pa.Table.from_pylist(lines, INDEX), path)
    file = replace(source.index_files[0], bytes=path.stat().st_size, sha256=sha256_of(path))
    changed = replace(info, sources=[replace(source, index_files=[file]), *info.sources[1:]])
    replace(manifest, splits={**manifest.splits, split: changed}).sealed().save()


@pytest.mark.parametrize("deep", ["false", "true"])
def test_a_whole_corpus_is_whole(verb, packed, deep):
    result = verb("verify", packed.folder, f"deep={deep}")
    assert result.damages == []
    assert result.files == len(list(packed.files()))
    assert result.bytes == sum(info.bytes for info in packed.files())
    rows = sum(split.rows for split in packed.splits.values())
    assert result.rows == rows if deep == "true" else 0 < result.rows < rows
    if deep == "true":
        assert 84 <= result.documents <= 90  # contiguous packing leaves ends of six sources in no row


def test_every_damaged_file_is_named(verb, own, capsys):
    manifest = Manifest.load(own)
    train = manifest.splits["train"].sources[0]
    gone, cut = own / train.index_files[0].path, own / manifest.splits["test"].document_files[0].path
    flip(own / train.shards[1].path)
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-5])
    with pytest.raises(CodexRayError, match="is damaged in 3 places"):
        verb("verify", own)
    out = capsys.readouterr().out
    assert f"{train.shards[1].path} is damaged (its SHA-256 is not the manifest's)" in out
    assert f"{gone} cannot be read" in out
    assert f"{cut} is damaged (it has" in out


def test_a_changed_manifest_and_another_tokenizer_are_damages(verb, own, capsys):
    data = json.loads((own / "manifest.json").read_text())
    data["splits"]["train"]["sources"][0]["shards"][0]["sha256"] = "0" * 64
    (own / "manifest.json").write_text(json.dumps(data))
    flip(own / "tokenizer" / "tokenizer.model")
    with pytest.raises(CodexRayError):
        verb("verify", own)
    out = capsys.readouterr().out
    assert "its fingerprint does not match its shards" in out
    assert "tokenizer" in out
    assert "shard-00000.parquet is damaged" in out


def other_text(lines):
    return [lines[0] | {"sha256": b"\0" * 32}, *lines[1:]]


def overlapping(lines):
    return [lines[0], lines[1] | {"offset": lines[1]["offset"] - 1}, *lines[2:]]


def missing(lines):
    return [*lines[:3], *lines[4:]]


def ends_early(lines):
    return lines[:-1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_text, "is not the text that the index names|has no end"),
        (overlapping, "overlaps the one before it"),
        (missing, "of no document|does not end in padding|comes after tokens"),
        (ends_early, "the index of train/prose ends"),
    ],
)
def test_an_index_that_lies_is_found(verb, own, capsys, change, words):
    reseal(own, "train", change)
    with pytest.raises(CodexRayError, match="is damaged in"):
        verb("verify", own, "deep=true")
    assert re.search(words, capsys.readouterr().out)


def test_the_status_is_1_for_a_damaged_corpus(own, capsys):
    assert cli.main(["corpus", "verify", str(own), "progress=off"]) == 0
    flip(own / Manifest.load(own).splits["train"].shards[0].path)
    assert cli.main(["corpus", "verify", str(own), "progress=off"]) == 1
    assert "copy it again or prepare the corpus again" in capsys.readouterr().err
