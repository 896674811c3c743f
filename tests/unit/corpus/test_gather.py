from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_ray.config.corpus import Clean, Split
from codex_ray.corpus.clean import duplicates
from codex_ray.corpus.gather import Gathered, ScanTask, Source, gather, group_by_bytes, sample, scan
from codex_ray.corpus.read import find_files
from codex_ray.corpus.split import share_of, split_of

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "splits.json").read_text())


def gathered(folder: Path, clean: Clean, split: Split | None = None, per_task: int = 3) -> Gathered:
    files = find_files(folder, [".txt"])
    runs = [files[start : start + per_task] for start in range(0, len(files), per_task)]
    tables = [scan(ScanTask(folder, run, clean)) for run in runs]
    return gather(tables, clean, split or Split(), seed=1234)


def fill(folder: Path) -> None:
    contents = {
        "a.txt": b"a first document",
        "b.txt": b"short",
        "c.txt": b"x" * 101,
        "d.txt": b"\xff not text at all",
        "e.txt": b"a first document",
        "f.txt": b"\xef\xbb\xbfa first document",
        "g.txt": b"another document",
        "h.txt": b"zero \0 inside here",
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("per_task", [1, 3, 100])
def test_every_file_is_accounted_for(tmp_path: Path, per_task: int) -> None:
    fill(tmp_path)
    found = gathered(tmp_path, Clean(min_bytes=10, max_bytes=100), per_task=per_task)
    assert [source.name for source in found.documents] == [b"a.txt", b"g.txt"]
    statistics = found.statistics()
    assert statistics["dropped"] == {"duplicate": 2, "too_long": 1, "too_short": 1}
    assert statistics["quarantined"] == {"binary": 1, "not UTF-8": 1}
    assert statistics["files"] == 8 == 2 + 4 + 2
    assert statistics["byte_order_marks_removed"] == 1
    lines = [json.loads(line) for line in found.quarantine_lines().splitlines()]
    assert lines == [
        {"file": "d.txt", "reason": "not UTF-8: byte 0xff at 0"},
        {"file": "h.txt", "reason": "binary: a NUL character at 5"},
    ]


def test_duplicates_stay_when_asked_and_share_a_split(tmp_path: Path) -> None:
    fill(tmp_path)
    half = Split(validation=0.5, test=0.0)
    found = gathered(tmp_path, Clean(min_bytes=10, max_bytes=100), half, exact=False)
    splits = {source.name: source.split for source in found.documents}
    assert set(splits) == {b"a.txt", b"e.txt", b"f.txt", b"g.txt"}
    assert splits[b"a.txt"] == splits[b"e.txt"] == splits[b"f.txt"]


def test_the_digest_follows_names_and_contents(tmp_path: Path) -> None:
    fill(tmp_path)
    clean = Clean(min_bytes=10, max_bytes=100)
    first = gathered(tmp_path, clean).digest
    assert gathered(tmp_path, clean, per_task=1).digest == first
    (tmp_path / "g.txt").write_bytes(b"another documenT")
    second = gathered(tmp_path, clean).digest
    (tmp_path / "g.txt").rename(tmp_path / "i.txt")
    third = gathered(tmp_path, clean).digest
    assert len({first, second, third}) == 3


@given(st.lists(st.binary(min_size=1, max_size=1), max_size=60))
def test_duplicates_are_all_but_the_first(contents: list[bytes]) -> None:
    digests = [hashlib.sha256(content).digest() for content in contents]
    expected = [content in contents[:index] for index, content in enumerate(contents)]
    assert duplicates(digests) == expected


def test_golden_splits() -> None:
    for case in GOLDEN:
        digest = hashlib.sha256(case["text"].encode()).digest()
        assert share_of(digest, case["seed"]) == case["share"]
        assert split_of(digest, Split(), case["seed"]) == case["split"]


def test_split_shares_are_met_and_depend_on_the_seed() -> None:
    digests = [hashlib.sha256(str(number).encode()).digest() for number in range(20_000)]
    settings = Split(validation=0.1, test=0.05)
    first = [split_of(digest, settings, 1) for digest in digests]
    assert abs(first.count("validation") / len(first) - 0.1) < 0.01
    assert abs(first.count("test") / len(first) - 0.05) < 0.01
    second = [split_of(digest, settings, 2) for digest in digests]
    both = sum(a == b == "validation" for a, b in zip(first, second, strict=True))
    assert both / len(first) < 0.02  # independent seeds: a tenth of a tenth


def test_no_share_holds_nothing_out() -> None:
    digests = [hashlib.sha256(str(number).encode()).digest() for number in range(1000)]
    nothing = Split(validation=0.0, test=0.0)
    assert {split_of(digest, nothing, 7) for digest in digests} == {"train"}


@given(sizes=st.lists(st.integers(0, 50), max_size=40), limit=st.integers(1, 60))
def test_groups_cover_everything_in_order_within_the_limit(sizes: list[int], limit: int) -> None:
    runs = list(group_by_bytes(sizes, limit))
    assert [index for run in runs for index in range(run.start, run.stop)] == list(range(len(sizes)))
    for run in runs:
        assert sum(sizes[run]) <= limit or run.stop - run.start == 1


def test_the_sample_is_drawn_evenly_and_in_order() -> None:
    sources = [Source(str(n).encode(), hashlib.sha256(b"%d" % n).digest(), 10, "train") for n in range(1000)]
    chosen = sample(sources, 3000, seed=1)
    places = [int(source.name) for source in chosen]
    assert places == sorted(places)
    assert len(places) == 300
    assert 440 < sum(places) / len(places) < 560
    assert sample(sources, 10**9, seed=1) == sources
    assert sample(sources, 3000, seed=2) != chosen
