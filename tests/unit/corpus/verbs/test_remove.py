from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies

from codex_ray.corpus.direct import RowReader
from codex_ray.corpus.documents import documents as held_out
from codex_ray.corpus.index import SourceReader, lines, readers
from codex_ray.corpus.manifest import Manifest
from codex_ray.errors import CodexRayError, ConfigError
from tests.unit.corpus.verbs import small

NAMES = ["folder/000.txt", "folder/009.txt", "folder/031.txt", "folder/117.txt"]
LISTED = f"names=[{','.join(NAMES)}]"


def rows_of(manifest: Manifest, split: str) -> dict[str, np.ndarray]:
    """The tokens of a split's rows by source."""
    info = manifest.splits[split]
    if not info.rows:
        return {source.source: np.empty((0, manifest.sequence_length)) for source in info.sources}
    tokens = RowReader(manifest, split, 1).take(np.arange(info.rows))
    ends = np.cumsum([source.rows for source in info.sources])[:-1]
    return dict(zip((source.source for source in info.sources), np.split(tokens, ends), strict=True))


def index_of(reader: SourceReader) -> list[tuple[str, int, int]]:
    return [(line.name, line.offset, line.tokens) for table in reader.tables() for line in lines(table)]


def hashes_of(folder: Path) -> dict[str, str]:
    return {info.path: info.sha256 for info in Manifest.load(folder).files()}


def test_the_rows_are_those_of_a_corpus_prepared_without_the_documents(verb, made, tmp_path):
    verb("remove", made["contiguous"].folder, f"output={tmp_path / 'less'}", LISTED)
    less = Manifest.load(tmp_path / "less")
    left = {
        source: [(name, text) for name, text in found if name not in NAMES]
        for source, found in (("prose", small.documents(0, 60)), ("notes", small.documents(100, 130)))
    }
    fresh = small.corpus(tmp_path / "fresh", left)
    for split in fresh.splits:
        for reader, other in zip(readers(less, split), readers(fresh, split), strict=True):
            assert index_of(reader) == index_of(other)
            assert reader.info.tokens == other.info.tokens
            assert reader.info.documents == other.info.documents
            assert reader.info.bytes == other.info.bytes
            # What was in no row of the old corpus is in none of the new one, at most a row.
            assert other.info.rows - 1 <= reader.info.rows <= other.info.rows
        old, new = rows_of(fresh, split), rows_of(less, split)
        for source, tokens in new.items():
            np.testing.assert_array_equal(tokens, old[source][: len(tokens)])
    for split in ("validation", "test"):
        assert sorted(d.name for d in held_out(less.folder, split)) == sorted(
            d.name for d in held_out(fresh.folder, split)
        )
    accounts = {
        name: (s["read"] - s["dropped"].get("removed", 0), s["kept"], s["bytes"], s["sizes"])
        for name, s in less.sources.items()
    }
    assert accounts == {
        name: (s["read"], s["kept"], s["bytes"], s["sizes"]) for name, s in fresh.sources.items()
    }


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=strategies.sets(strategies.integers(0, 59), min_size=1, max_size=50))
@pytest.mark.parametrize("method", small.METHODS)
def test_what_stays_is_whole_whichever_documents_go(verb, made, tmp_path_factory, method, numbers):
    folder = tmp_path_factory.mktemp("removed")
    names = ",".join(f"folder/{number:03d}.txt" for number in sorted(numbers))
    written = verb("remove", made[method].folder, f"output={folder / 'less'}", f"names=[{names}]")
    assert written.removed == len(numbers)
    result = verb("verify", folder / "less", "deep=true")
    assert result.damages == []
    less = written.manifest
    assert sum(split.documents for split in less.splits.values()) == 90 - len(numbers)
    for split in less.splits:
        for reader in readers(less, split):
            assert not {name for name, *_ in index_of(reader)} & set(names.split(","))


def test_rows_packed_by_best_fit_keep_their_other_documents(verb, made, tmp_path):
    old = made["best_fit"]
    written = verb("remove", old.folder, f"output={tmp_path / 'less'}", LISTED)
    for split in old.splits:
        for before, after in zip(readers(old, split), readers(written.manifest, split), strict=True):
            kept = [line for line in index_of(before) if line[0] not in NAMES]
            rows = {offset // 64: None for _, offset, _ in kept}
            assert [(name, tokens) for name, _, tokens in kept] == [(n, t) for n, _, t in index_of(after)]
            assert after.info.rows == len(rows)
            places = {row: number for number, row in enumerate(rows)}
            assert [places[o // 64] for _, o, _ in kept] == [o // 64 for _, o, _ in index_of(after)]


def test_equal_requests_give_equal_bytes_and_the_second_does_nothing(verb, packed, tmp_path):
    hashes = [
        line.sha256.hex() for r in readers(packed) for line in r.overlapping(0, 10**9) if line.name in NAMES
    ]
    (tmp_path / "found.jsonl").write_text("".join(json.dumps({"sha256": value}) + "\n" for value in hashes))
    one = verb("remove", packed.folder, f"output={tmp_path / 'one'}", LISTED)
    two = verb("remove", packed.folder, f"output={tmp_path / 'two'}", f"match={tmp_path / 'found.jsonl'}")
    three = verb(
        "remove", packed.folder, f"output={tmp_path / 'three'}", f"sha256=[{','.join(dict.fromkeys(hashes))}]"
    )
    assert hashes_of(tmp_path / "one") == hashes_of(tmp_path / "two") == hashes_of(tmp_path / "three")
    assert one.manifest.fingerprint == two.manifest.fingerprint == three.manifest.fingerprint
    again = verb("remove", packed.folder, f"output={tmp_path / 'one'}", LISTED)
    assert again.reused
    assert again.removed == one.removed == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.jsonl", "one", "three", "two"]


def test_removing_twice_leaves_the_rows_of_removing_at_once(verb, made, tmp_path):
    corpus = made["best_fit"].folder
    verb("remove", corpus, f"output={tmp_path / 'one'}", "names=[folder/000.txt]")
    verb("remove", tmp_path / "one", f"output={tmp_path / 'both'}", "names=[folder/031.txt,folder/117.txt]")
    verb(
        "remove",
        corpus,
        f"output={tmp_path / 'once'}",
        "names=[folder/000.txt,folder/031.txt,folder/117.txt]",
    )
    both, once = Manifest.load(tmp_path / "both"), Manifest.load(tmp_path / "once")
    for split in once.splits:
        for source, tokens in rows_of(once, split).items():
            np.testing.assert_array_equal(tokens, rows_of(both, split)[source])
    assert both.account().dropped["removed"] == once.account().dropped["removed"] == 3


def test_a_glob_and_a_source_narrow_it_down(verb, packed, tmp_path):
    written = verb(
        "remove", packed.folder, f"output={tmp_path / 'less'}", "names=[folder/10?.txt]", "source=notes"
    )
    assert written.removed == 10
    assert written.manifest.sources["notes"]["dropped"] == {"removed": 10}
    weights = [source.weight for source in written.manifest.splits["train"].sources]
    rows = [source.rows for source in written.manifest.splits["train"].sources]
    assert weights == pytest.approx([count / sum(rows) for count in rows])


@pytest.mark.parametrize(
    ("words", "kind", "sentence"),
    [
        (("names=[folder/001.txt,none.txt,x*]",), CodexRayError, r"none\.txt and 1 more are not in corpus"),
        (("names=[folder/001.txt]", "source=prosa"), ConfigError, "has no source 'prosa'"),
        ((f"sha256=[{'0' * 64}]",), CodexRayError, "0000 is not in corpus"),
        (("names=[folder/*]",), CodexRayError, "no training row would be left"),
        (("sha256=[12ab]",), ConfigError, "is not a SHA-256"),
        ((), ConfigError, "no document is named"),
        (("match=nowhere.jsonl",), CodexRayError, r"nowhere\.jsonl cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(verb, packed, tmp_path, words, kind, sentence):
    with pytest.raises(kind, match=sentence):
        verb("remove", packed.folder, f"output={tmp_path / 'less'}", *words)
    assert list(tmp_path.iterdir()) == []


def test_a_line_without_a_hash_is_named(verb, packed, tmp_path):
    (tmp_path / "found.jsonl").write_text('{"sha256": "12"}\n')
    with pytest.raises(CodexRayError, match=r"line 1 of .*has no SHA-256"):
        verb("remove", packed.folder, f"output={tmp_path / 'less'}", f"match={tmp_path / 'found.jsonl'}")


def test_an_output_that_is_taken_is_left_alone(verb, packed, tmp_path):
    (tmp_path / "less").mkdir()
    (tmp_path / "less" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is there already and holds something else"):
        verb("remove", packed.folder, f"output={tmp_path / 'less'}", LISTED)
    with pytest.raises(ConfigError, match="is there already and holds something else"):
        verb("remove", packed.folder, f"output={packed.folder}", LISTED)
    assert (tmp_path / "less" / "mine.txt").read_text() == "mine"


def test_an_index_in_many_small_pieces_gives_the_same_rows(verb, packed, tmp_path):
    many = small.recut(packed, tmp_path / "many")
    assert verb("verify", many.folder, "deep=true").damages == []
    one = verb("remove", packed.folder, f"output={tmp_path / 'one'}", LISTED).manifest
    other = verb("remove", many.folder, f"output={tmp_path / 'other'}", LISTED).manifest
    assert verb("verify", other.folder, "deep=true").damages == []
    for split in one.splits:
        for source, tokens in rows_of(one, split).items():
            np.testing.assert_array_equal(tokens, rows_of(other, split)[source])
        for reader, same in zip(readers(one, split), readers(other, split), strict=True):
            assert index_of(reader) == index_of(same)


def test_what_an_end_half_way_left_is_cleared(verb, packed, tmp_path):
    left = tmp_path / ".less.stages" / "rewritten" / "train"
    left.mkdir(parents=True)
    (left / "prose-shard-00000.parquet").write_bytes(b"half")
    verb("remove", packed.folder, f"output={tmp_path / 'less'}", LISTED)
    assert [path.name for path in tmp_path.iterdir()] == ["less"]
    assert verb("verify", tmp_path / "less").damages == []


def test_a_damaged_shard_ends_it_and_nothing_is_left(verb, own):
    path = own / Manifest.load(own).splits["train"].sources[1].shards[0].path
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CodexRayError, match=r"notes-shard-00000\.parquet is damaged"):
        verb("remove", own, f"output={own.parent / 'less'}", LISTED)
    assert [path.name for path in own.parent.iterdir()] == ["own"]
