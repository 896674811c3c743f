from __future__ import annotations

import numpy as np

from benchmarks.near_duplicates import SETTINGS, _ours, _shingles, generate, score


def test_the_truth_about_the_generated_texts_holds_and_is_found() -> None:
    texts, originals = generate(150)
    assert len(originals) == len(texts) > 150
    sets = [_shingles(text) for text in texts]
    kinds = set()
    for number in range(150, len(texts)):
        shares = [len(one & sets[number]) / len(one | sets[number]) for one in sets[:150]]
        near = max(shares) >= SETTINGS.similarity
        kinds.add(near)
        assert originals[number] == (int(np.argmax(shares)) if near else number)
    assert kinds == {False, True}
    recall, precision = score(_ours(texts), originals)
    assert recall >= 0.9
    assert precision >= 0.9


def test_recall_and_precision_of_known_labels() -> None:
    originals = np.array([0, 1, 0, 1, 4, 5])
    assert score(originals, originals) == (1.0, 1.0)
    assert score(np.array([0, 1, 0, 3, 4, 4]), originals) == (0.5, 0.5)
    assert score(np.array([0, 1, 1, 1, 4, 5]), originals) == (0.5, 0.5)
