"""An environment that kills: its own process, or an actor that samples, when it judges a certain sequence."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from codex_ray.rollout import rewards
from codex_ray.rollout.environment import Environment, EnvironmentBuilder
from codex_ray.rollout.episode import Episode


@dataclass(frozen=True)
class Assassin:
    """Judges as another environment does, after each killing that is due.

    Args:
        builder: of the other one.
        folder: where each killing leaves a file, with the time and the process that it struck.
        victims: ``sampler`` or ``scorer`` by batch: struck when the first prompt's second sample is judged.
    """

    builder: EnvironmentBuilder
    folder: Path
    victims: Mapping[int, str]

    def __call__(self) -> Environment:
        return Killing(self.builder(), self.folder, self.victims)


@dataclass(frozen=True)
class Killing:
    """The environment in the scorer's process."""

    judge: Environment
    folder: Path
    victims: Mapping[int, str]

    def respond(self, episode: Episode) -> str | None:
        return self.judge.respond(episode)

    def score(self, episode: Episode) -> Any:
        victim, mark = self.victims.get(episode.step), self.folder / f"killed-{episode.step}"
        if victim is not None and (episode.position, episode.sample) == (0, 1) and not mark.exists():
            process = os.getpid() if victim == "scorer" else a_sampler()
            mark.write_text(f"{time.time()} {process}")
            os.kill(process, signal.SIGKILL)
        return self.judge.score(episode)


def a_sampler() -> int:
    """Number of one of the processes of this node that sample; the one that computes most at this moment."""
    siblings = psutil.Process(os.getppid()).children()
    samplers = [one for one in siblings if "SamplingActor" in " ".join(one.cmdline())]
    assert samplers, [one.cmdline() for one in siblings]
    busy = {one.pid: one.cpu_percent(0.05) for one in samplers}
    return max(busy, key=lambda pid: busy[pid])


def let_loose(patch: pytest.MonkeyPatch, folder: Path, victims: Mapping[int, str]) -> None:
    """Have the next runs' scorers kill."""
    build = rewards.rewarded
    folder.mkdir(parents=True, exist_ok=True)
    patch.setattr(rewards, "rewarded", lambda *given: Assassin(build(*given), folder, victims))


def killed(folder: Path) -> list[int]:
    """Batches in which somebody was killed."""
    return sorted(int(path.name.partition("-")[2]) for path in folder.glob("killed-*"))
