from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_ray.config.corpus import Split
from codex_ray.corpus.canaries import Planted
from codex_ray.corpus.manifest import SPLITS
from codex_ray.corpus.parts import PartWriter
from codex_ray.corpus.split import split_of
from codex_ray.corpus.stages import Entry
from codex_ray.corpus.tokenising import TokenTask, best_fit, index_path, tokenise_part, tokens_path
from codex_ray.tokenizer import Tokenizer
from tests.unit.corpus.corpora import tokenizer_folder

LENGTH = 16


@given(lengths=st.lists(st.integers(1, 40), max_size=60))
def test_best_fit_places_every_item_once_and_wastes_little(lengths: list[int]) -> None:
    rows = best_fit(lengths, 40)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    assert all(sum(lengths[item] for item in row) <= 40 for row in rows)
    # Its proven bound (Johnson, 1974) against the least number of rows that could do.
    assert len(rows) <= 11 / 9 * -(-sum(lengths) // 40) + 4 or len(rows) <= 2 * -(-sum(lengths) // 40)
    assert not any(
        sum(lengths[item] for item in left) + sum(lengths[item] for item in right) <= 40
        for place, left in enumerate(rows)
        for right in rows[place + 1 :]
    )


def make_task(folder: Path, texts: list[str], packing: str, kept: list[bool]) -> TokenTask:
    part = folder / "part"
    part.mkdir()
    writer = PartWriter(part, lambda group: None)
    for number, text in enumerate(texts):
        writer.add(f"{number}.txt", text)
    writer.close()
    flags = np.packbits(np.array(kept)).tobytes()
    entry = Entry(folder / "entry")
    shares = Split(validation=0.3, test=0.2)
    return TokenTask(
        part, len(texts), flags, tokenizer_folder(), shares, 7, "uint16", packing, LENGTH, 1, entry
    )


@pytest.mark.parametrize("packing", ["contiguous", "best_fit"])
def test_the_index_says_where_every_kept_document_is(packing: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(tokenizer_folder())
    generator = np.random.default_rng(4)
    texts = ["def add " * int(generator.integers(1, 12)) + str(number) for number in range(50)]
    kept = [number % 5 != 0 for number in range(50)]
    task = make_task(tmp_path, texts, packing, kept)
    tokenise_part(task)
    counts = task.entry.result()
    assert counts is not None and sum(counts[split]["documents"] for split in SPLITS) == sum(kept)
    for split in SPLITS:
        tokens = np.fromfile(tokens_path(task.entry.folder, split), "<u2")
        assert len(tokens) == counts[split]["tokens"]
        assert packing == "contiguous" or len(tokens) % LENGTH == 0
        pieces: dict[str, list[int]] = {}
        covered = np.zeros(len(tokens), dtype=int)
        for line in pq.read_table(index_path(task.entry.folder, split)).to_pylist():
            run = slice(line["offset"], line["offset"] + line["tokens"])
            covered[run] += 1
            pieces.setdefault(line["name"], []).extend(tokens[run].tolist())
            assert split_of(line["sha256"], task.split, task.seed) == split
            assert packing == "contiguous" or run.start // LENGTH == (run.stop - 1) // LENGTH
        assert (covered <= 1).all() and (tokens[covered == 0] == tokenizer.special_ids["pad"]).all()
        for name, ids in pieces.items():
            text = texts[int(name.removesuffix(".txt"))]
            assert ids == [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]
        assert packing == "best_fit" or covered.all()


def test_a_finished_part_is_not_tokenised_again(tmp_path: Path) -> None:
    task = make_task(tmp_path, ["def add(first)"] * 3, "contiguous", [True] * 3)
    tokenise_part(task)
    before = {path: path.stat().st_mtime_ns for path in task.entry.folder.iterdir()}
    tokenise_part(task)
    assert {path: path.stat().st_mtime_ns for path in task.entry.folder.iterdir()} == before


@pytest.mark.parametrize("packing", ["contiguous", "best_fit"])
def test_what_is_planted_stands_in_the_train_split_among_the_others(packing: str, tmp_path: Path) -> None:
    texts = [f"def add({number})" for number in range(40)]
    made = make_task(tmp_path, texts, packing, [True] * 40)
    planted = tuple(Planted(place, f"canary-{place}", f"add {place}") for place in (0, 0, 17, 39, 40))
    task = replace(made, planted=planted)
    tokenise_part(task)
    names = {
        split: [line["name"] for line in pq.read_table(index_path(task.entry.folder, split)).to_pylist()]
        for split in SPLITS
    }
    assert sorted(name for name in names["train"] if name.startswith("canary")) == sorted(
        one.name for one in planted
    )
    assert not any(name.startswith("canary") for split in SPLITS[1:] for name in names[split])
    assert sum(not name.startswith("canary") for split in SPLITS for name in names[split]) == 40
    if packing == "contiguous":
        own = [name for name in names["train"] if not name.startswith("canary")]
        places = [int(name.removesuffix(".txt")) for name in own]
        before = names["train"][: names["train"].index("canary-17")]
        assert before[:2] == ["canary-0"] * 2
        assert [name for name in before if name in own] == [
            name for name, p in zip(own, places, strict=True) if p < 17
        ]
