"""Canaries planted by prepare, whose tasks run in this process here: where they are, and the same again."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from codex_ray.config.common import Track
from codex_ray.config.corpus import Canaries, Pack, Prepare, Split, Tokenizer
from codex_ray.corpus import prepare as preparing
from codex_ray.corpus.canaries import canary, plant
from codex_ray.corpus.prepare import Prepared, prepare
from codex_ray.evaluate.training import training_texts
from codex_ray.tokenizer import Tokenizer as Tokens


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(function: Any, tasks: Iterable[Any], **_: Any) -> Iterator[Any]:
        return map(function, tasks)

    monkeypatch.setattr("codex_ray.corpus.ray_data.run_tasks", run)
    monkeypatch.setattr(preparing, "_open_ray", lambda *_: None)


def made(folder: Path, name: str, method: str, count: int) -> Prepared:
    texts = folder / "texts"
    texts.mkdir(exist_ok=True)
    source = Path(textwrap.__file__).read_text()
    for number in range(12):
        (texts / f"{number}.py").write_text(source[number * 1000 : number * 1000 + 2000])
    return prepare(
        Prepare(
            text=str(texts),
            output=str(folder / name),
            tokenizer=Tokenizer(vocabulary_size=400),
            pack=Pack(sequence_length=64, method=method),
            split=Split(validation=0.3, test=0.0),
            canaries=Canaries(count=count, repeats=3),
            track=Track(progress="off", report=False),
        )
    )


@pytest.mark.parametrize("method", ["contiguous", "best_fit"])
def test_prepare_plants_each_as_often_as_asked_in_the_train_split(method: str, tmp_path: Path) -> None:
    planted, again, plain = (made(tmp_path, name, method, n) for name, n in (("a", 6), ("b", 6), ("c", 0)))
    assert planted.manifest.fingerprint == again.manifest.fingerprint != plain.manifest.fingerprint
    assert planted.manifest.settings["canaries"] == {"count": 6, "repeats": 3}
    assert "canaries" not in plain.manifest.settings
    documents = [
        {name: split.documents for name, split in one.manifest.splits.items()} for one in (planted, plain)
    ]
    assert documents[0] == documents[1] | {"train": documents[1]["train"] + 18}
    planted.manifest.verify()
    tokenizer = Tokens.load(planted.folder / "tokenizer")
    text = json.dumps(list(training_texts(planted.manifest, tokenizer)))
    # What follows the last full row is cut off, and with it perhaps one.
    assert (
        sum(text.count(f"{before} {secret}") for before, secret in (canary(1234, n) for n in range(6))) >= 17
    )


def test_places_are_even_and_parts_without_documents_get_none() -> None:
    found = plant(Canaries(count=1000, repeats=2), 5, [100, 0, 300])
    sizes = [len(one) for one in found]
    assert sum(sizes) == 2000 and sizes[1] == 0 and 400 < sizes[0] < 600
    assert all(0 <= one.place < 300 for one in found[2])
    assert set(Counter(one.text for part in found for one in part).values()) == {2}
    assert plant(Canaries(count=1000, repeats=2), 5, [100, 0, 300]) == found
