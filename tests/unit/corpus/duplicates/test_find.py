from __future__ import annotations

import tracemalloc
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from codex_ray.config.corpus import Duplicates
from codex_ray.corpus.duplicates import exchange, find, group
from codex_ray.corpus.duplicates.exchange import Bucket, Corpus, NearTask, band_hashes
from codex_ray.corpus.duplicates.group import BLOCK, LEADERS, matching
from codex_ray.corpus.duplicates.hashes import open_part, write_arrays, write_part
from codex_ray.corpus.duplicates.minhash import MinHash
from codex_ray.errors import CodexRayError
from tests.unit.corpus.duplicates import generated
from tests.unit.corpus.duplicates.generated import NEAR, edited, jaccard, random_words


def reference(signatures: NDArray[np.uint32], settings: Duplicates) -> list[int]:
    """All documents with all: linked if they share a band and enough places; the first of what is linked."""
    hashes = band_hashes(signatures, settings.bands)
    firsts = list(range(len(signatures)))
    for one, other in combinations(range(len(signatures)), 2):
        alike = (signatures[one] == signatures[other]).mean() >= settings.similarity
        if alike and (hashes[:, one] == hashes[:, other]).any():
            low, high = sorted((firsts[one], firsts[other]))
            firsts = [low if first == high else first for first in firsts]
    return firsts


@settings(deadline=None, max_examples=40)
@given(
    contents=st.lists(st.integers(0, 12), max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=5),
    capacity=st.sampled_from([1, 2, 7, 1000]),
)
def test_exact_labels_are_those_of_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, contents: list[int], cuts: list[int], capacity: int
) -> None:
    kinds = np.random.default_rng(0).integers(0, 256, (13, 32), dtype=np.uint8)
    kinds[1, :31], kinds[2, :8], kinds[3], kinds[4] = kinds[0, :31], kinds[0, :8], 0, 255
    digests = kinds[contents]
    cuts = [min(cut, len(contents)) for cut in cuts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(find, "HELD_BYTES", capacity * find.EXACT_BYTES)
        labels = generated.find(tmp_path_factory.mktemp("parts"), [], cuts, Duplicates(near=False), digests)
    seen: dict[int, int] = {}
    assert labels.first_exact.tolist() == [
        seen.setdefault(kind, place) for place, kind in enumerate(contents)
    ]
    assert labels.first_near.tolist() == labels.first_exact.tolist()


def families(random: np.random.Generator, count: int) -> list[str]:
    """Return documents, edited copies of them, copies of copies, and equal ones, in any order."""
    texts: list[list[str]] = []
    for _ in range(count):
        kind = random.integers(0, 4) if texts else 0
        if kind == 0:
            texts.append(random_words(random, int(random.integers(1, 120))))
        else:
            earlier = texts[random.integers(0, len(texts))]
            texts.append(edited(random, earlier, int(random.integers(0, 3)) if kind < 3 else 0))
    return [" ".join(text) for text in texts]


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 40),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    capacity=st.sampled_from([3, 10, 1000]),
    gathered=st.sampled_from([1, 2**24]),
    chosen=st.sampled_from([NEAR, replace(NEAR, bands=20, rows=2, similarity=0.5), replace(NEAR, rows=1)]),
)
def test_near_labels_are_those_of_comparing_all_however_parts_and_buckets_are_cut(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    count: int,
    cuts: list[int],
    capacity: int,
    gathered: int,
    chosen: Duplicates,
) -> None:
    texts = families(np.random.default_rng(seed), count)
    signatures = MinHash(chosen).signatures(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(find, "HELD_BYTES", capacity * find.NEAR_BYTES)
        patch.setattr(exchange, "GATHERED_BYTES", gathered)
        cuts = [min(cut, count) for cut in cuts]
        labels = generated.find(tmp_path_factory.mktemp("parts"), texts, cuts, chosen, signatures=signatures)
    assert labels.first_exact.tolist() == [texts.index(text) for text in texts]
    assert labels.first_near.tolist() == reference(signatures, chosen)


def test_nearly_equal_documents_are_found_and_others_are_not(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    pairs, truth = [], []
    while len(pairs) < 500:
        words = random_words(random, int(random.integers(80, 400)))
        other = edited(random, words, int(random.integers(0, len(words) // 20 + 2)))
        similarity = jaccard(words, other)
        if not 0.72 < similarity < 0.88:
            pairs.append((" ".join(words), " ".join(other)))
            truth.append(similarity >= 0.8)
    labels = generated.find(tmp_path, [text for pair in pairs for text in pair], cuts=[100, 301])
    found = labels.first_near[1::2] == np.arange(0, 1000, 2)
    expected = np.array(truth)
    assert 100 < expected.sum() < 400
    assert found[expected].mean() >= 0.98
    assert expected[found].mean() >= 0.98
    assert (labels.first_near[0::2] == np.arange(0, 1000, 2)).all()


def test_chains_are_one_group_whoever_comes_first(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(400)]
    chain = [words[12 * link : 12 * link + 200] for link in range(12)]  # neighbours share 184 of 208 shingles
    assert jaccard(chain[0], chain[1]) > 0.87
    assert jaccard(chain[0], chain[2]) < 0.79
    assert jaccard(chain[0], chain[11]) < 0.3
    order = np.random.default_rng(3).permutation(12)
    labels = generated.find(tmp_path, [" ".join(chain[link]) for link in order], cuts=[5])
    assert (labels.first_near == 0).all()


@pytest.mark.parametrize("cuts", [[], [1], [0, 700, 700, 1999]])
def test_all_equal(tmp_path: Path, cuts: list[int]) -> None:
    labels = generated.find(tmp_path, ["the same few words again and again"] * 2000, cuts)
    assert (labels.first_exact == 0).all()
    assert (labels.first_near == 0).all()


def test_all_different(tmp_path: Path) -> None:
    texts = [" ".join(f"w{text * 40 + word}" for word in range(40)) for text in range(2000)]
    labels = generated.find(tmp_path, texts, [1000])
    assert (labels.first_near == np.arange(2000)).all()


def test_texts_of_few_words(tmp_path: Path) -> None:
    texts = ["", "  ", "\n\n", "one", "One", "one!", "two", "!", "?", "", "one two", "one two "]
    labels = generated.find(tmp_path, texts, [4])
    assert labels.first_exact.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 10, 11]
    assert labels.first_near.tolist() == [0, 0, 0, 3, 3, 5, 6, 7, 8, 0, 10, 10]


def test_no_parts_and_empty_parts(tmp_path: Path) -> None:
    assert find.find_duplicates([], NEAR, generated.in_turn).first_near.tolist() == []
    labels = generated.find(tmp_path, ["some text", "some text"], [0, 0, 1, 1, 2])
    assert labels.first_near.tolist() == [0, 0]


def test_a_frame_around_every_document_costs_no_square_and_links_only_what_is_alike(tmp_path: Path) -> None:
    """Of 6,000 documents two thirds are one frame; some have a late copy with one place changed."""
    random, count = np.random.default_rng(1), 6000
    signatures = random.integers(0, 2**32, (count, 112), dtype=np.uint32)
    signatures[:, :75] = signatures[0, :75]  # nine bands are all frame
    copies = np.arange(count // 2, count, 10)
    signatures[copies] = signatures[copies - count // 2]
    signatures[copies, 111] += 1
    compared = 0

    def counting(left: NDArray[np.uint32], right: NDArray[np.uint32]) -> NDArray[np.uint32]:
        nonlocal compared
        compared += len(left) * len(right)
        return matching(left, right)

    digests = random.integers(0, 256, (count, 32), dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group, "matching", counting)
        labels = generated.find(tmp_path, [], [2000], NEAR, digests, signatures)
    expected = np.arange(count)
    expected[copies] -= count // 2
    assert (labels.first_near == expected).all()
    assert 9 * count < compared <= 9 * count * (LEADERS + 2 * BLOCK)


def test_a_hash_that_all_documents_share_is_streamed_in_bounded_memory(tmp_path: Path) -> None:
    """One band equal in 60,000 documents of all but equal signatures (27 MB): a task holds a few MB."""
    count, parts = 60_000, 30
    base = np.random.default_rng(2).integers(0, 2**32, 112, dtype=np.uint32)
    paths, starts = [], tuple(range(0, count, count // parts))
    for start in starts:
        signatures = np.tile(base, (count // parts, 1))
        signatures[:, -1] = np.arange(start, start + count // parts)
        paths.append(tmp_path / str(start))
        digests = np.random.default_rng(start).integers(0, 256, (count // parts, 32), dtype=np.uint8)
        write_part(paths[-1], digests, signatures)
        kept = np.arange(count // parts, dtype=np.uint32)
        hashes = band_hashes(signatures, 14)[:1]
        write_arrays(exchange.bands_path(paths[-1]), [hashes, kept[None]])
    assert open_part(paths[0]).documents == count // parts
    task = NearTask(Corpus(tuple(paths), starts), Bucket(0, 2**64, 1000), band=0, needed=90)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "GATHERED_BYTES", 2**20)
        tracemalloc.start()
        table = exchange.near_links(task)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert sorted(table["document"].to_pylist()) == list(range(1, count))
    assert set(table["first"].to_pylist()) == {0}
    assert peak < 4 * 16 * count + 5 * 2**20  # the links themselves, and what is read together


@pytest.mark.parametrize("found", [None, 4])
def test_signatures_of_other_settings_are_one_sentence(tmp_path: Path, found: int | None) -> None:
    signatures = None if found is None else np.ones((2, found), np.uint32)
    write_part(tmp_path / "part", np.eye(2, 32, dtype=np.uint8), signatures)
    with pytest.raises(CodexRayError, match=f"part have {found or 'no'} hashes .* is 112; remove the file"):
        find.find_duplicates([tmp_path / "part"], NEAR, generated.in_turn)
    assert [path.name for path in tmp_path.iterdir()] == ["part"]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40), st.integers(1, 9))
def test_united_groups_are_named_by_their_first(pairs: list[tuple[int, int]], batch: int) -> None:
    roots = np.arange(20)
    expected = list(range(20))
    for one, other in pairs:
        low, high = sorted((expected[one], expected[other]))
        expected = [low if first == high else first for first in expected]
    links = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    for start in range(0, len(links), batch):
        find.unite(roots, *links[start : start + batch].T)
    find.unite(roots, np.arange(20), np.arange(20))
    assert roots.tolist() == expected
