"""A tiny model, environments and a trainer's stand-in, which the tests of rollout actors share."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from codex_ray.config.rollout import Rollouts
from codex_ray.rollout.episode import Episode, Prompt, Rollout
from codex_ray.rollout.pool import RolloutPool
from codex_ray.rollout.steps import to_submit
from codex_ray.rollout.weights import named_parameters
from codex_ray.tokenizer import Tokenizer
from tests.unit.rollout.models import mhc

PROMPTS = [Prompt([1, 20 + place], place) for place in range(6)]
SAMPLES = 4


def tiny(**changes: Any) -> Rollouts:
    """Settings of a pool whose steps have six tasks."""
    chosen: dict[str, Any] = {
        "actors": 2,
        "slots": 4,
        "max_new_tokens": 24,
        "start_seconds": 240.0,
        "task_seconds": 120.0,
        "score_seconds": 60.0,
        "step_seconds": 400.0,
    }
    return Rollouts(**chosen | changes)


@dataclass(frozen=True)
class TinyModel:
    """Builds our decoder with random weights, which follow from a constant."""

    folder: str

    def __call__(self) -> tuple[Any, Tokenizer]:
        tokenizer = Tokenizer.load(self.folder)
        return mhc(tokenizer.vocabulary_size).eval(), tokenizer


@dataclass(frozen=True)
class Slow:
    """Builds the tiny model, whose every forward pass takes some time more."""

    folder: str
    seconds: float

    def __call__(self) -> tuple[Any, Tokenizer]:
        model, tokenizer = TinyModel(self.folder)()
        model.register_forward_hook(lambda *_: time.sleep(self.seconds))
        return model, tokenizer


@dataclass(frozen=True)
class Fatal:
    """Builds the tiny model, which ends its process when it reads a token."""

    folder: str
    token: int

    def __call__(self) -> tuple[Any, Tokenizer]:
        model, tokenizer = TinyModel(self.folder)()

        def look(module: Any, arguments: Any, keywords: dict[str, Any]) -> None:
            if (keywords["input_ids"] == self.token).any():
                os._exit(1)

        model.register_forward_pre_hook(look, with_kwargs=True)
        return model, tokenizer


def letters(problem: int, text: str) -> float:
    """A reward that is easily got: letters in the text."""
    return float(sum(letter.isalpha() for letter in text) + 100 * problem)


def trained(model: Any, version: int) -> dict[str, Tensor]:
    """What a trainer would publish: the weights, moved by a draw that follows from the version."""
    draw = torch.Generator().manual_seed(version)
    return {
        name: one + 0.02 * torch.randn(one.shape, generator=draw)
        for name, one in named_parameters(model).items()
    }


def steps(pool: RolloutPool, model: Any, count: int) -> list[list[Rollout]]:
    """Take a few steps as a trainer does that has nothing to learn."""
    taken = []
    pool.begin()
    for step in range(count):
        pool.publish(step, trained(model, step))
        for ahead in to_submit(step, 0, pool.settings.staleness):
            pool.submit(ahead, step, PROMPTS, SAMPLES)
        taken.append(pool.collect(step).rollouts)
    return taken


def wait_until_gone(processes: list[int], seconds: float = 60.0) -> None:
    """Processes end, and are not left behind."""
    deadline = time.monotonic() + seconds
    while any(psutil.pid_exists(one) for one in processes):
        assert time.monotonic() < deadline, processes
        time.sleep(0.1)


def wait_for(path: Path, seconds: float = 120.0) -> None:
    """Something elsewhere has got as far as to write a file."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


@dataclass(frozen=True)
class Blocking:
    """An environment that rewards as :func:`letters` does, and in one score of a prompt gets stuck.

    It writes ``stuck`` with its process number then. ``waits_for`` is a file that lets it go on, and makes it
    write; ``always`` has it get stuck each time.
    """

    folder: Path
    position: int
    waits_for: str = ""
    always: bool = False

    def __call__(self) -> Any:
        return self

    def respond(self, episode: Episode) -> str | None:
        return None

    def score(self, episode: Episode) -> float:
        (self.folder / f"seen-{episode.position}").touch()
        stuck = self.folder / "stuck"
        mine = episode.position == self.position and episode.sample == 1
        if mine and (self.always or not stuck.exists()):
            stuck.write_text(str(os.getpid()))
            while not self.waits_for or not (self.folder / self.waits_for).exists():
                time.sleep(0.05)
        return letters(episode.problem, episode.text)


def sometimes(problem: int, text: str) -> float:
    """A reward that raises for one prompt and is no number for another."""
    if problem == 2:
        raise LookupError("no reward for this")
    return float("nan") if problem == 3 else letters(problem, text)
