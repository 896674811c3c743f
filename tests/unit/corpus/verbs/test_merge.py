from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from codex_ray.corpus.direct import OrderedReader
from codex_ray.corpus.documents import documents as held_out
from codex_ray.corpus.index import readers
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.verbs import shared
from codex_ray.errors import CodexRayError, ConfigError
from tests.unit.corpus.packed import pack_corpus
from tests.unit.corpus.verbs import small
from tests.unit.corpus.verbs.test_remove import hashes_of, rows_of


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> dict[str, Manifest]:
    """A corpus that shares nothing with those of ``made``, and one that shares ten documents of prose."""
    folder = tmp_path_factory.mktemp("others")
    apart = {"prose": small.documents(200, 230), "code": small.documents(300, 320)}
    return {
        "apart": small.corpus(folder / "apart", apart, small.settings("best_fit")),
        "overlapping": small.corpus(
            folder / "overlapping", {"web": small.documents(40, 80)}, small.settings(seed=8)
        ),
    }


def splits_of(manifest: Manifest) -> dict[bytes, set[str]]:
    found: dict[bytes, set[str]] = {}
    for reader in readers(manifest):
        for line in reader.overlapping(0, 10**9):
            found.setdefault(line.sha256, set()).add(reader.split)
    return found


def test_sources_keep_their_rows_names_and_packing(verb, made, others, tmp_path):
    corpora = [made["contiguous"], others["apart"]]
    listed = f"corpora=[{','.join(str(manifest.folder) for manifest in corpora)}]"
    written = verb("merge", listed, f"output={tmp_path / 'both'}")
    both = Manifest.load(tmp_path / "both")
    assert written.removed == 0
    assert list(both.sources) == ["prose", "notes", "prose-2", "code"]
    for split in both.splits:
        rows = rows_of(both, split)
        expected = list(rows_of(corpora[0], split).values()) + list(rows_of(corpora[1], split).values())
        for tokens, old in zip(rows.values(), expected, strict=True):
            np.testing.assert_array_equal(tokens, old)
    counts = [source.rows for source in both.splits["train"].sources]
    weights = [source.weight for source in both.splits["train"].sources]
    assert weights == pytest.approx([count / sum(counts) for count in counts])
    assert verb("verify", both.folder, "deep=true").damages == []
    names = {document.name for document in held_out(both.folder, "validation")}
    assert any(name.startswith("prose-2/folder/2") for name in names)
    assert len(names) == both.splits["validation"].documents
    reader = OrderedReader(both, "train", seed=3)
    assert reader.take(np.arange(50)).shape == (50, 64)
    assert both.account().kept == sum(manifest.account().kept for manifest in corpora)


def test_the_report_of_a_merged_corpus_accounts_for_every_item(verb, packed, others, tmp_path):
    verb("merge", f"corpora=[{packed.folder},{others['overlapping'].folder}]", f"output={tmp_path / 'both'}")
    page = (tmp_path / "both" / "report.html").read_text()
    account = Manifest.load(tmp_path / "both").account()
    assert f"Of {account.read:,} items read, {account.kept:,} were kept" in page
    assert "do not add up" not in page


def test_merging_again_does_nothing_and_elsewhere_gives_the_same_bytes(verb, packed, others, tmp_path):
    listed = f"corpora=[{packed.folder},{others['apart'].folder}]"
    for name in ("one", "two"):
        assert not verb("merge", listed, f"output={tmp_path / name}").reused
    assert hashes_of(tmp_path / "one") == hashes_of(tmp_path / "two")
    assert verb("merge", listed, f"output={tmp_path / 'one'}").reused
    with pytest.raises(ConfigError, match="is there already"):
        verb("merge", listed, f"output={tmp_path / 'one'}", "duplicates=remove")


def test_weights_are_the_sources_shares_of_training(verb, packed, others, tmp_path):
    listed = f"corpora=[{packed.folder},{others['apart'].folder}]"
    words = "weights={prose:1,notes:0,prose-2:2.0,code:1}"
    written = verb("merge", listed, f"output={tmp_path / 'both'}", words)
    assert [source.weight for source in written.manifest.splits["train"].sources] == [0.25, 0.0, 0.5, 0.25]
    sources, _ = Manifest.load(tmp_path / "both").order("train", seed=1).draws(np.arange(2**14))
    assert np.bincount(sources, minlength=4).tolist() == [4096, 0, 8192, 4096]


@pytest.mark.parametrize("lines", [2**19, 8])
def test_no_text_is_in_two_splits(verb, packed, others, tmp_path, monkeypatch, lines):
    monkeypatch.setattr(shared, "BUCKET_LINES", lines)
    corpora = [packed, others["overlapping"]]
    before = [splits_of(manifest) for manifest in corpora]
    leaks = {text for text in before[0].keys() & before[1].keys() if before[0][text] != before[1][text]}
    assert len(leaks) > 3
    listed = f"corpora=[{','.join(str(manifest.folder) for manifest in corpora)}]"
    written = verb("merge", listed, f"output={tmp_path / 'both'}")
    after = splits_of(written.manifest)
    assert all(len(splits) == 1 for splits in after.values())
    assert after.keys() == before[0].keys() | before[1].keys()
    for text in leaks:
        assert after[text] == {"test"} if "test" in before[0][text] | before[1][text] else {"validation"}
    assert written.removed == written.manifest.account().dropped["removed"] == len(leaks)
    assert verb("verify", tmp_path / "both", "deep=true").damages == []
    assert len(list(held_out(tmp_path / "both", "test"))) == written.manifest.splits["test"].documents


def test_each_text_is_there_once_if_asked(verb, packed, others, tmp_path):
    corpora = [packed, others["overlapping"]]
    listed = f"corpora=[{','.join(str(manifest.folder) for manifest in corpora)}]"
    written = verb("merge", listed, f"output={tmp_path / 'both'}", "duplicates=remove")
    assert written.removed == 20
    assert sum(split.documents for split in written.manifest.splits.values()) == 90 + 40 - 20
    assert written.manifest.sources["web"]["kept"] < 40


def test_a_merged_corpus_can_be_merged_and_cut(verb, made, others, tmp_path):
    first = f"corpora=[{made['contiguous'].folder},{made['best_fit'].folder}]"
    verb("merge", first, f"output={tmp_path / 'two'}")
    written = verb(
        "merge", f"corpora=[{tmp_path / 'two'},{others['apart'].folder}]", f"output={tmp_path / 'three'}"
    )
    assert list(written.manifest.sources) == ["prose", "notes", "prose-2", "notes-2", "prose-3", "code"]
    verb("remove", tmp_path / "three", f"output={tmp_path / 'less'}", "names=[folder/009.txt,folder/20?.txt]")
    result = verb("verify", tmp_path / "less", "deep=true")
    assert result.damages == []


def test_corpora_that_do_not_fit_are_refused(verb, made, tmp_path):
    other = pack_corpus(
        tmp_path / "other",
        {"web": small.documents(0, 40)},
        replace(small.settings(), tokenizer=replace(small.settings().tokenizer, vocabulary_size=330)),
    )
    longer = small.corpus(tmp_path / "longer", prepare=small.settings(length=32))
    folder = made["contiguous"].folder
    for manifest, sentence in (
        (other, "have different tokenizers"),
        (longer, r"have different sequence lengths \(64 and 32\)"),
    ):
        with pytest.raises(CodexRayError, match=sentence):
            verb("merge", f"corpora=[{folder},{manifest.folder}]", f"output={tmp_path / 'both'}")
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("weights={prosa:1}",), "weights.prosa is no source of the corpora; did you mean 'prose'"),
        (("weights={prose:1}",), "weights.notes is not given and others are"),
        (("weights={prose:-1}",), "weights.prose is negative"),
        (("weights={prose:0}",), "every one of weights is 0"),
        (("corpora=[one]",), "names 1 corpora; give at least two"),
    ],
)
def test_impossible_settings_are_said(verb, made, others, tmp_path, words, sentence):
    listed = f"corpora=[{made['contiguous'].folder},{others['apart'].folder}]"
    with pytest.raises(ConfigError, match=sentence):
        verb("merge", listed, f"output={tmp_path / 'both'}", *words)


def test_a_folder_given_twice_is_refused(verb, made, tmp_path):
    folder = made["contiguous"].folder
    with pytest.raises(ConfigError, match="names one folder twice"):
        verb("merge", f"corpora=[{folder},{folder}]", f"output={tmp_path / 'both'}")
