"""Batches on Ray Data's actors that hang, fail or die: the same completions, or a sentence that says why."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from codex_ray.config.rollout import Spread
from codex_ray.errors import CodexRayError
from codex_ray.rollout.generate import complete
from codex_ray.rollout.request import Completion, Request
from codex_ray.rollout.spread import completions
from codex_ray.tokenizer import Tokenizer
from tests.integration.rollouts import TinyModel
from tests.unit.rollout.models import train_small_tokenizer

pytestmark = [pytest.mark.integration, pytest.mark.verify, pytest.mark.usefixtures("ray_session")]

BATCHES = 8
SPREAD = Spread(actors=2, cpus_per_actor=0.5, start_seconds=240.0, task_seconds=20.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("tokenizer")
    train_small_tokenizer(path)
    return str(path)


@dataclass(frozen=True)
class Trouble:
    """Makes requests of a batch's number, and the first ``times`` that it is asked for some, trouble."""

    place: str
    by_batch: dict[int, str]
    times: int = 1

    def __call__(self, tokenizer: Tokenizer, number: int) -> list[Request]:
        marks = [Path(self.place) / f"{number}-{time}" for time in range(self.times)]
        for mark in marks:
            if number in self.by_batch and not mark.exists():
                mark.touch()
                self._make(self.by_batch[number])
        return [Request([1, 20 + number, 30 + sample], 12, seed=sample) for sample in range(5)]

    def _make(self, trouble: str) -> None:
        if trouble == "hang":
            time.sleep(10_000)
        if trouble == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == "refuse":
            raise CodexRayError("this batch is not for us")
        raise RuntimeError("the device is in an illegal state")


def completed(folder: str, ask: Trouble, notes: list[str], **changes: Any) -> dict[int, list[Completion]]:
    settings = {"count": BATCHES, "slots": 3, "ordered": True} | changes
    found = completions(SPREAD, TinyModel(folder), range(BATCHES), ask, note=notes.append, **settings)
    return dict(found)


def test_what_hangs_or_fails_once_is_done_again(folder: str, tmp_path: Path) -> None:
    notes: list[str] = []
    found = completed(folder, Trouble(str(tmp_path), {1: "hang", 4: "fail", 6: "die"}), notes)
    model, tokenizer = TinyModel(folder)()
    quiet = Trouble(str(tmp_path), {})
    for number in range(BATCHES):
        alone = complete(model, tokenizer, quiet(tokenizer, number), slots=3)
        assert [one.ids for one in found[number]] == [one.ids for one in alone]
    assert list(found) == list(range(BATCHES))
    assert notes and all("an actor died" in note for note in notes)


def test_what_kills_every_actor_ends_it_with_a_sentence(folder: str, tmp_path: Path) -> None:
    with pytest.raises(CodexRayError, match="3 actors were lost over the same prompts"):
        completed(folder, Trouble(str(tmp_path), {2: "die"}, times=100), [])
    assert 3 <= len(list(tmp_path.iterdir())) <= 4


def test_what_is_refused_is_told_as_it_is(folder: str, tmp_path: Path) -> None:
    with pytest.raises(CodexRayError, match=r"^this batch is not for us"):
        completed(folder, Trouble(str(tmp_path), {5: "refuse"}), [])
    with pytest.raises(CodexRayError, match="nowhere"):
        completed("/nowhere/at/all", Trouble(str(tmp_path), {}), [])
    with pytest.raises(CodexRayError, match=r"lower spread\.actors"):
        list(
            completions(
                Spread(actors=50),
                TinyModel(folder),
                range(60),
                Trouble(str(tmp_path), {}),
                count=60,
                slots=2,
                ordered=False,
                note=print,
            )
        )
