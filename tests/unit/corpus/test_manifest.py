from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codex_ray.config.corpus import Tokenizer as TokenizerSettings
from codex_ray.corpus.direct import RowReader, Share
from codex_ray.corpus.documents import documents
from codex_ray.corpus.manifest import Manifest, ShardInfo
from codex_ray.corpus.pack import Layout, identity, write_shard
from codex_ray.errors import CodexRayError
from codex_ray.tokenizer import train_tokenizer
from tests.unit.corpus.corpora import TEXT, known_rows, make_corpus, row_ids


@pytest.fixture
def corpus(tmp_path: Path) -> Manifest:
    return make_corpus(tmp_path / "corpus")


def edit(folder: Path, change: dict[str, object]) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_a_manifest_comes_back_as_it_was_saved(corpus: Manifest) -> None:
    loaded = Manifest.load(corpus.folder)
    assert loaded == corpus
    assert loaded.folder == corpus.folder
    assert loaded.splits["train"].rows == 53
    assert len(loaded.life_id) == 32
    loaded.verify(deep=True)


def test_equal_corpora_have_equal_fingerprints_and_lives(tmp_path: Path, corpus: Manifest) -> None:
    same = make_corpus(tmp_path / "same")
    other = make_corpus(tmp_path / "other", rows=54)
    assert (same.fingerprint, same.life_id) == (corpus.fingerprint, corpus.life_id)
    assert other.fingerprint != corpus.fingerprint
    assert other.life_id != corpus.life_id


def test_missing_and_unfinished_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(CodexRayError, match=r"no does not exist; make it with codex-ray prepare"):
        Manifest.load(tmp_path / "no")
    with pytest.raises(CodexRayError, match=r"has no manifest\.json, so it is not complete"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 99}, "has format 99 and this codex_ray reads up to 1"),
        ({"sequence_length": 9}, "its fingerprint does not match"),
        ({"splits": {"train": {}}}, "is damaged .KeyError"),
        ({"splits": []}, "is damaged"),
    ],
)
def test_edited_manifests_are_refused(corpus: Manifest, change: dict[str, object], words: str) -> None:
    edit(corpus.folder, change)
    with pytest.raises(CodexRayError, match=words):
        Manifest.load(corpus.folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\0"])
def test_what_is_no_manifest_is_refused(corpus: Manifest, text: str) -> None:
    (corpus.folder / "manifest.json").write_text(text)
    with pytest.raises(CodexRayError, match=r"manifest.* damaged"):
        Manifest.load(corpus.folder)


def test_another_tokenizer_is_refused(corpus: Manifest) -> None:
    shutil.rmtree(corpus.folder / "tokenizer")
    train_tokenizer(
        [*TEXT, "zebra"], TokenizerSettings(vocabulary_size=310), corpus.folder / "tokenizer", seed=1
    )
    with pytest.raises(CodexRayError, match="is not the one the corpus was made with"):
        Manifest.load(corpus.folder)


def test_verify_names_the_damaged_file(corpus: Manifest) -> None:
    path = corpus.folder / corpus.splits["train"].shards[2].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    corpus.verify(deep=False)
    with pytest.raises(CodexRayError, match=r"train/text/shard-00002\.parquet is damaged .its SHA-256"):
        corpus.verify(deep=True)
    path.unlink()
    with pytest.raises(CodexRayError, match=r"shard-00002\.parquet cannot be read"):
        corpus.verify(deep=False)


def test_splits_without_rows_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path / "corpus", held_out=0)
    with pytest.raises(CodexRayError, match=r"'validation' .* has no rows"):
        manifest.split("validation")
    with pytest.raises(CodexRayError, match="no split 'trian'; did you mean 'train'"):
        manifest.split("trian")


def test_held_out_documents_come_back_and_training_ones_are_not_kept(corpus: Manifest) -> None:
    found = list(documents(corpus.folder, "validation"))
    assert [(document.name, document.text) for document in found] == [("0.txt", TEXT[0]), ("1.txt", TEXT[1])]
    with pytest.raises(CodexRayError, match="keeps no documents"):
        documents(corpus.folder, "train")


def test_a_damaged_documents_file_is_named(corpus: Manifest) -> None:
    path = corpus.folder / "validation" / "documents-00000.parquet"
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    with pytest.raises(CodexRayError, match=r"documents-00000\.parquet is damaged"):
        list(documents(corpus.folder, "validation"))


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("cached", [1, 3, 100])
def test_rows_are_read_by_id_in_any_order(tmp_path: Path, dtype: str, cached: int) -> None:
    manifest = make_corpus(tmp_path / "corpus", dtype=dtype)
    reader = RowReader(manifest, "train", cached)
    wanted = np.random.default_rng(1).integers(0, 53, 200)
    tokens = reader.take(wanted)
    assert tokens.dtype == np.dtype(dtype)
    assert row_ids(tokens) == wanted.tolist()
    assert row_ids(reader.take(np.arange(53))) == list(range(53))


def test_every_flipped_byte_of_a_shard_is_noticed_or_harmless(corpus: Manifest) -> None:
    path = corpus.folder / corpus.splits["train"].shards[1].path
    sound = path.read_bytes()
    wanted = np.arange(12, 24)
    noticed = 0
    for place in range(0, len(sound), 3):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x11]) + sound[place + 1 :])
        try:
            assert row_ids(RowReader(corpus, "train", 9).take(wanted)) == wanted.tolist(), place
        except CodexRayError as error:
            assert "shard-00001.parquet" in str(error)
            noticed += 1
    assert noticed > len(sound) / 3 / 2


def test_a_cut_missing_or_foreign_shard_is_named(corpus: Manifest) -> None:
    path = corpus.folder / corpus.splits["train"].shards[1].path
    sound = path.read_bytes()

    def take() -> None:
        RowReader(corpus, "train", 9).take(np.arange(12, 13))

    layout = Layout(8, 4, 12, "uint16")
    rows = known_rows(24, 8, "uint16")[12:].reshape(3, -1)
    write_shard(path, rows, layout, identity("kontent", "train", "text", 1))
    assert len(path.read_bytes()) == len(sound)
    with pytest.raises(
        CodexRayError, match=r"shard-00001\.parquet is not shard 1 of source 'text' in the train split"
    ):
        take()
    path.write_bytes(sound[:-1])
    with pytest.raises(CodexRayError, match=r"shard-00001\.parquet is damaged .it has \d+ bytes"):
        take()
    path.unlink()
    with pytest.raises(CodexRayError, match=r"shard-00001\.parquet cannot be read"):
        take()


def test_seeking_in_a_trillion_tokens_takes_no_longer_than_in_a_small_corpus(corpus: Manifest) -> None:
    length, group, per_shard = 256, 256, 2**20
    rows = 10**12 // length + 17
    shards = [
        ShardInfo(f"train/{n}", per_shard, per_shard * length, 1, "") for n in range(-(-rows // per_shard))
    ]
    source = replace(corpus.splits["train"].sources[0], rows=rows, shards=shards)
    split = replace(corpus.splits["train"], sources=[source], row_group_rows=group, rows_per_shard=per_shard)
    huge = replace(corpus, sequence_length=length, splits={"train": split})

    def cost(manifest: Manifest, first_step: int) -> float:
        times = []
        for _ in range(7):
            share = Share(Path(), "train", "", 1, 512, 3, 8)
            began = time.perf_counter()
            manifest.order("train", 1).at(share.positions(first_step, first_step + 32))
            times.append(time.perf_counter() - began)
        return min(times)

    base = cost(corpus, 0)
    for step in (0, 1000, rows // 1024, rows // 512 - 3, 50 * rows // 512):
        assert cost(huge, step) < 8 * base + 0.005


def test_reading_needs_no_ray() -> None:
    names = (
        "order",
        "manifest",
        "reading",
        "repeated",
        "split",
        "pack",
        "build",
        "direct",
        "documents",
        "stream",
        "prepare",
    )
    imports = ", ".join(f"codex_ray.corpus.{name}" for name in names)
    code = f"import sys, {imports}; sys.exit('ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3], timeout=60)
