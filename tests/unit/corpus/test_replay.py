"""Old rows among new ones: where they come from, how many, and what is refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codex_ray.config.corpus import Tokenizer as Train
from codex_ray.config.finetune import Examples, Finetune
from codex_ray.config.followed import Replay
from codex_ray.corpus.direct import OrderedReader, RowReader
from codex_ray.corpus.examples import prepare_examples
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.marked import BEGINS, IDS, LEARNT
from codex_ray.corpus.mixture import BLOCK, Mixture
from codex_ray.corpus.replay import FolderAgain, open_replay
from codex_ray.errors import CodexRayError
from codex_ray.tokenizer import Tokenizer, train_tokenizer
from codex_ray.tokenizer.conversation import ChatTemplate
from codex_ray.track.progress import open_progress
from codex_ray.train.rollouts import Prompts
from codex_ray.train.task import Finetuning
from tests.unit.evaluate.small_corpus import TRAINING, make_corpus

LENGTH = 32
NEW = [{"prompt": f"new {number} ?", "response": f" is {number} ."} for number in range(40)]
OLD = [{"prompt": f"old {number} ?", "response": f" was {number} ."} for number in range(30)]

Prepare = Callable[..., Manifest]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [row["prompt"] + row["response"] for row in NEW + OLD]
    texts += [document.text for document in TRAINING]
    train_tokenizer(texts, Train(vocabulary_size=500), folder, 1)
    return Tokenizer.load(folder)


@pytest.fixture
def prepared(tokenizer: Tokenizer, tmp_path: Path) -> Prepare:
    def prepare(name: str, rows: list[Any], old: Replay | None = None, **changes: Any) -> Manifest:
        kind, length = changes.pop("kind", "answers"), changes.pop("length", LENGTH)
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        wanted, template = Examples(path=str(file), validation=0.0), ChatTemplate.of(tokenizer, None)
        again = open_replay(old or Replay(), wanted, template, length=length, seed=1, kind=kind)
        with open_progress(None, "off") as progress:
            return prepare_examples(
                wanted,
                template,
                tmp_path / name,
                length=length,
                seed=1,
                progress=progress,
                kind=kind,
                old=again,
            )

    return prepare


def examples(manifest: Manifest, tokenizer: Tokenizer, source: str) -> set[tuple[str, str]]:
    """What is read and what is learnt of each example of a source."""
    info, first = manifest.splits["train"], 0
    for one in info.sources:
        if one.source == source:
            rows = RowReader(manifest, "train", 1).take(np.arange(first, first + one.rows))
        first += one.rows
    found = set()
    for row in rows:
        for start, stop in itertools.pairwise([*np.flatnonzero(row & BEGINS), len(row)]):
            piece = row[start:stop]
            read, learnt = (
                tokenizer.decode([int(t) & IDS for t in piece if bool(t & LEARNT) == wanted])
                for wanted in (0, 1)
            )
            found |= {(read, learnt)} if learnt else set()
    return found


def test_a_share_of_the_positions_is_of_old_rows(
    prepared: Prepare, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    prepared("old", OLD)
    again = prepared("both", NEW, Replay(path=str(tmp_path / "old.jsonl"), share=0.25))
    assert examples(again, tokenizer, "replay") == {(row["prompt"], row["response"]) for row in OLD}
    assert examples(again, tokenizer, "examples") == {(row["prompt"], row["response"]) for row in NEW}
    order = again.order("train", 1)
    assert isinstance(order, Mixture)
    sources, _ = order.draws(np.arange(BLOCK))
    assert np.bincount(sources).tolist() == [BLOCK * 3 // 4, BLOCK // 4]
    new = again.splits["train"].sources[0]
    assert Finetuning(Finetune(), again.folder, "").epoch_rows(again) == pytest.approx(new.rows / 0.75)
    # Any position is found without those before it: a resumed run reads what it would have read.
    whole = OrderedReader(again, "train", 1).take(np.arange(100, dtype=np.int64))
    later = OrderedReader(again, "train", 1).take(np.arange(60, 100, dtype=np.int64))
    assert np.array_equal(whole[60:], later)


def test_the_examples_of_another_run_are_taken_as_they_are(
    prepared: Prepare, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    old = prepared("old", OLD)
    again = prepared("both", NEW, Replay(path=str(old.folder)))
    assert examples(again, tokenizer, "replay") == {(row["prompt"], row["response"]) for row in OLD}
    longer = prepared("longer", NEW, Replay(path=str(old.folder)), length=2 * LENGTH)
    assert examples(longer, tokenizer, "replay") == examples(again, tokenizer, "replay")
    with pytest.raises(CodexRayError, match=r"has rows of 32 tokens; give data\.sequence_length=32"):
        prepared("shorter", NEW, Replay(path=str(old.folder)), length=LENGTH // 2)
    with pytest.raises(CodexRayError, match="holds answers, and this method learns from prompts"):
        prepared("prompts", NEW, Replay(path=str(old.folder)), kind="prompts")
    with pytest.raises(CodexRayError, match="have changed since"):
        prepared("both", NEW, Replay(path=str(old.folder), share=0.2))


def test_prompts_of_old_rows_keep_their_records(prepared: Prepare, tmp_path: Path) -> None:
    prepared("old", OLD, kind="prompts")
    for number, path in enumerate((tmp_path / "old.jsonl", tmp_path / "old")):
        again = prepared(f"both{number}", NEW, Replay(path=str(path), share=0.5), kind="prompts")
        found = [prompt.problem for prompt in Prompts(again, 1).at(0, 200)]
        assert {row["prompt"] for row in found} == {row["prompt"] for row in NEW + OLD}
        assert all(row in NEW + OLD for row in found)


def test_documents_of_a_corpus_are_examples_that_are_learnt_whole(
    prepared: Prepare, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    eos, pad = tokenizer.special_ids["eos"], tokenizer.special_ids["pad"]
    begin = tokenizer.bos_id
    assert begin is not None
    texts = [[begin, *tokenizer.encode(f"a text {number}"), eos] for number in range(3)]
    row = np.array([*itertools.chain(*texts), pad, pad], dtype=np.uint16)
    held = FolderAgain(0.1, None, LENGTH, 9, 1, (begin, eos, pad))._text(row)  # type: ignore[arg-type]
    assert np.flatnonzero(held & BEGINS).tolist() == [0, len(texts[0]), len(texts[0] + texts[1])]
    assert len(held) == len(row) - 2 and ((held & LEARNT) != 0).sum() == len(held) - 3
    assert (held & IDS).tolist() == row[:-2].tolist()


def test_a_corpus_of_another_tokenizer_is_refused(prepared: Prepare, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus").folder
    with pytest.raises(CodexRayError, match="was made with another tokenizer"):
        prepared("both", NEW, Replay(path=str(corpus)))
    with pytest.raises(CodexRayError, match=r"replay\.path=nowhere does not exist"):
        prepared("both", NEW, Replay(path="nowhere"))


def test_a_corpus_is_replayed_as_far_as_wanted(
    prepared: Prepare, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    corpus = make_corpus(tmp_path / "corpus").folder
    own = Tokenizer.load(corpus / "tokenizer")
    template = ChatTemplate.of(own, None)
    wanted = Replay(path=str(corpus), rows=3)
    again = open_replay(wanted, Examples(), template, length=16, seed=1, kind="answers")
    assert again is not None
    with open_progress(None, "off") as progress:
        held = again.read(progress)
        other = replace(again, seed=2).read(progress)  # type: ignore[type-var]
    manifest = Manifest.load(corpus)
    rows = RowReader(manifest, "train", 1).take(manifest.order("train", 1).rows(0, 3))
    assert max(held.lengths) <= 16
    filled = rows[rows != own.pad_id] if own.pad_id != own.eos_id else rows
    assert (held.tokens() & IDS).tolist() == filled.reshape(-1).tolist()
    begun = held.tokens()[np.cumsum([0, *held.lengths[:-1]])]
    assert (begun & BEGINS).all() and not (begun & LEARNT).any()
    assert held.tokens().tolist() != other.tokens().tolist()
