from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.config.corpus import Duplicates
from codex_ray.corpus.duplicates import minhash
from codex_ray.corpus.duplicates.minhash import EMPTY, MinHash
from codex_ray.corpus.duplicates.words import hash_words
from tests.unit.corpus.duplicates.generated import edited, jaccard, random_words

GOLDEN = json.loads((Path(__file__).parents[3] / "golden" / "minhash.json").read_text(encoding="utf-8"))

LETTERS = "[a-z0-9\u00c0-\u0dff\u1080-\u177f\u1800-\u1fff]+"
ALONE = "[\u0e00-\u107f\u1780-\u17ff\u2c00-\u2fff\u3040-\U0010ffff]"


def words_of(text: str, few: int) -> list[str]:
    """Cut by a regular expression as the module's docstring says."""
    words = re.findall(f"{LETTERS}|{ALONE}", text.lower())
    signs = rf"{LETTERS}|[^\0\t\n\x0b\x0c\r\x1c-\x1f ]"
    return words if len(words) >= few else re.findall(signs, text.lower())


TEXTS = st.lists(
    st.text(st.characters(codec="utf-8"), max_size=60)
    | st.text(st.sampled_from("ab1_ .\n-é日本กx\u00a0\u2014İß"), max_size=200)
    | st.sampled_from(["", "a", "a" * 7, "a" * 8, "a" * 9, "b" * 63, "b" * 64, "b" * 65, "b" * 500 + " c"]),
    max_size=8,
)


@settings(deadline=None, max_examples=200)
@given(texts=TEXTS, few=st.integers(1, 6))
def test_words_are_those_of_the_definition(texts: list[str], few: int) -> None:
    hashes, counts = hash_words(texts, few)
    expected = [words_of(text, few) for text in texts]
    assert counts.tolist() == [len(words) for words in expected]
    flat = [word for words in expected for word in words]
    assert len({*zip(flat, hashes.tolist(), strict=True)}) == len(set(flat)) == len(set(hashes.tolist()))


@settings(deadline=None, max_examples=60)
@given(texts=TEXTS, length=st.integers(1, 6), batch=st.sampled_from([1, 64, 2**18]))
def test_equal_sets_of_shingles_have_equal_signatures_and_no_others(
    texts: list[str], length: int, batch: int
) -> None:
    def shingles(text: str) -> frozenset[tuple[str, ...]]:
        words = words_of(text, length)
        return frozenset(
            tuple(words[place : place + length]) for place in range(max(1, len(words) - length + 1))
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minhash, "BATCH_CHARACTERS", batch)
        signatures = MinHash(Duplicates(shingle_words=length)).signatures(texts)
    assert signatures.shape == (len(texts), 112)
    assert not (signatures == EMPTY).any()
    sets = [shingles(text) for text in texts]
    for one, left in zip(sets, signatures, strict=True):
        for other, right in zip(sets, signatures, strict=True):
            if one == other:
                assert np.array_equal(left, right)
            elif not one & other:
                assert not (left == right).any()


def test_golden_values() -> None:
    for case in GOLDEN:
        small = Duplicates(shingle_words=case["shingle_words"], bands=case["bands"], rows=case["rows"])
        assert MinHash(small).signatures([case["text"]])[0].tolist() == case["signature"], case["text"]


@pytest.mark.parametrize(("bands", "rows"), [(14, 8), (1, 1), (3, 7), (64, 4)])
@pytest.mark.parametrize("length", [8, 40, 2000])
def test_the_estimate_is_unbiased_and_varies_no_more_than_permutations_would(
    bands: int, rows: int, length: int
) -> None:
    random = np.random.default_rng(bands * rows + length)
    pairs = []
    for _ in range(400 if length < 1000 else 60):
        words = random_words(random, length + int(random.integers(0, length)))
        pairs.append((words, edited(random, words, int(random.integers(0, len(words) // 5 + 2)))))
    truth = np.array([jaccard(*pair) for pair in pairs])
    texts = [" ".join(words) for pair in pairs for words in pair]
    signatures = MinHash(Duplicates(bands=bands, rows=rows)).signatures(texts)
    errors = (signatures[0::2] == signatures[1::2]).mean(axis=1) - truth
    variance = (truth * (1 - truth) / (bands * rows)).sum()
    assert abs(errors.sum()) < 4 * np.sqrt(variance)
    assert (errors**2).sum() < variance * (1 + 5 / np.sqrt(len(pairs)))


def test_places_are_drawn_evenly_from_the_shingles() -> None:
    """Each of a text's shingles gives as many places as any other, whatever their number."""
    texts = [" ".join(f"t{text}w{word}" for word in range(7)) for text in range(600)]
    one_word = Duplicates(shingle_words=1)
    whole = MinHash(one_word).signatures(texts)
    without_last = MinHash(one_word).signatures([text.rpartition(" ")[0] for text in texts])
    share = (whole == without_last).mean()
    assert abs(share - 6 / 7) < 4 * np.sqrt(6 / 49 / whole.size) + 1e-4
