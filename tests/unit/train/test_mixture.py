"""What a run over several sources says of each, and which held-out rows it measures."""

from __future__ import annotations

import numpy as np
import pytest

from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.mixture import BLOCK
from codex_ray.train.source import sources_used
from codex_ray.train.validation import validation_rows
from tests.unit.corpus.corpora import make_corpus

SOURCES = {"code": (53, 0.25), "prose": (40, 0.6), "small": (6, 0.15)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_corpus(tmp_path_factory.mktemp("sources") / "corpus", sources=SOURCES, held_out=30)


def test_what_a_run_has_used_follows_from_its_position(corpus: Manifest) -> None:
    order = corpus.order("train", 5)
    ids = order.rows(0, BLOCK + 333)
    used = sources_used(corpus, order, BLOCK + 333)
    for name, first, rows in (("code", 0, 53), ("prose", 53, 40), ("small", 93, 6)):
        count = int(((ids >= first) & (ids < first + rows)).sum())
        assert used[f"source/{name}/rows"] == count
        assert used[f"source/{name}/epochs"] == count / rows
    assert sources_used(corpus, corpus.order("train", 5), BLOCK + 333) == used  # as a resumed run says
    exact = sources_used(corpus, order, 3 * BLOCK)
    assert [exact[f"source/{name}/rows"] for name in SOURCES] == [12288, 29490, 7374]


def test_one_source_is_not_reported(tmp_path_factory: pytest.TempPathFactory) -> None:
    single = make_corpus(tmp_path_factory.mktemp("single") / "corpus", held_out=9)
    assert sources_used(single, single.order("train", 5), 100) == {}
    wanted = single.order("validation", 1).rows(0, 8).tolist()
    assert validation_rows(single, 100, 2)["text"].tolist() == wanted


@pytest.mark.parametrize(("most", "world"), [(1000, 1), (1000, 4), (33, 1), (33, 2), (12, 3), (1, 2)])
def test_validation_measures_sources_in_proportion_to_their_rows(
    corpus: Manifest, most: int, world: int
) -> None:
    """30, 30 and 6 rows are held out, whatever the weights in training."""
    chosen = validation_rows(corpus, most, world)
    for name, first, rows in (("code", 0, 30), ("prose", 30, 30), ("small", 60, 6)):
        ids = chosen.get(name, np.array([], dtype=np.int64))
        assert len(ids) % world == 0
        assert len(set(ids.tolist())) == len(ids)
        assert all(first <= row < first + rows for row in ids)
        assert abs(len(ids) - rows * min(most, 66) / 66) <= 2 * world
    total = sum(map(len, chosen.values()))
    assert min(most, 66) - 4 * world < total <= min(most, 66)
    assert all(len(ids) for ids in chosen.values())
