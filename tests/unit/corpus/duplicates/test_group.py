from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from codex_ray.corpus.duplicates.find import unite
from codex_ray.corpus.duplicates.group import BLOCK, LEADERS, Group, matching

PLACES, NEEDED = 20, 16


def grouped(signatures: NDArray[np.uint32], documents: NDArray[np.int64]) -> list[int]:
    group = Group(NEEDED)
    for first in range(0, len(documents), BLOCK):
        group.feed(documents[first : first + BLOCK], signatures[first : first + BLOCK])
    roots = np.arange(documents.max() + 1)
    links = group.links()
    assert (links[:, 0] > links[:, 1]).all()
    assert len(links) < len(documents)  # each link joins something
    unite(roots, links[:, 0], links[:, 1])
    return roots[documents].tolist()


def all_pairs(signatures: NDArray[np.uint32], documents: NDArray[np.int64]) -> list[int]:
    roots = np.arange(documents.max() + 1)
    one, other = np.nonzero((signatures[:, None] == signatures[None]).sum(axis=2) >= NEEDED)
    unite(roots, documents[one], documents[other])
    return roots[documents].tolist()


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 2 * BLOCK), changes=st.integers(0, 5))
def test_groups_of_two_blocks_have_the_links_of_comparing_all(seed: int, count: int, changes: int) -> None:
    """Each document is an earlier one with a few places changed: chains, stars and strangers."""
    random = np.random.default_rng(seed)
    signatures = random.integers(0, 2**32, (count, PLACES), dtype=np.uint32)
    for number in range(1, count):
        if random.random() < 0.9:
            signatures[number] = signatures[random.integers(0, number)]
            changed = random.integers(0, PLACES, random.integers(0, changes + 1))
            signatures[number, changed] = random.integers(0, 2**32, len(changed), dtype=np.uint32)
    documents = np.sort(random.permutation(3 * count)[:count])
    assert grouped(signatures, documents) == all_pairs(signatures, documents)


@pytest.mark.parametrize("step", [2, BLOCK])
def test_long_chains_hold_together(step: int) -> None:
    """Versions of a text, each alike only to those next to it, one after another or a block apart."""
    count = 8 * BLOCK
    version = np.arange(count) // step
    signatures = (version[:, None] * 3 + np.arange(PLACES)[None]).astype(np.uint32) // PLACES
    far = np.random.default_rng(1).integers(2**31, 2**32, (count, PLACES), dtype=np.uint32)
    signatures = np.where((np.arange(count) % 2 == 0)[:, None], signatures, far)  # strangers in between
    labels = np.array(grouped(signatures, np.arange(count)))
    assert (labels[0::2] == 0).all()
    assert (labels[1::2] == np.arange(1, count, 2)).all()


def test_copies_far_behind_the_leaders_are_found_while_there_are_leaders_left() -> None:
    random = np.random.default_rng(2)
    kinds = random.integers(0, 2**32, (LEADERS, PLACES), dtype=np.uint32)
    signatures = np.concatenate([kinds, random.permutation(np.repeat(kinds, 9, axis=0))])
    documents = np.arange(len(signatures))
    assert grouped(signatures, documents) == all_pairs(signatures, documents)


def test_equal_places_are_counted() -> None:
    random = np.random.default_rng(3)
    block, others = (
        random.integers(0, 3, (7, 300), dtype=np.uint32),
        random.integers(0, 3, (5, 300), dtype=np.uint32),
    )
    assert np.array_equal(matching(block, others), (block[:, None] == others[None]).sum(axis=2))
    assert matching(block, others[:0]).shape == (7, 0)
