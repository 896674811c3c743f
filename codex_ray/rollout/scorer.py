"""The actor that scores: an environment, and one episode at a time.

Plain Python; :mod:`codex_ray.rollout.pool` makes it a Ray actor.
"""

from __future__ import annotations

import math
import os
import traceback
from numbers import Real
from typing import Any

from codex_ray.rollout.environment import Environment, EnvironmentBuilder
from codex_ray.rollout.episode import Episode, Failure, Outcome, Scored


class ScoringActor:
    """Holds an environment, and builds it anew after it has failed."""

    def __init__(self, build: EnvironmentBuilder) -> None:
        self._build = build
        self._environment: Environment | None = None

    def start(self) -> None:
        """Build the environment."""
        self._environment = self._build()

    def process(self) -> int:
        """Number of the process."""
        return os.getpid()

    def judge(self, episode: Episode, may_go_on: bool) -> Outcome | Failure:
        """Answer an episode's last turn, or give the reward of its end."""
        if self._environment is None:
            self.start()
        assert self._environment is not None
        try:
            return judge(self._environment, episode, may_go_on=may_go_on)
        except Exception as error:  # whatever a user's code raises is a failure of this sequence alone
            self._environment = None
            where = traceback.extract_tb(error.__traceback__)[-1]
            name = type(error).__name__
            return Failure(name, f"{name}: {error} ({where.filename}, line {where.lineno})")


def judge(environment: Environment, episode: Episode, *, may_go_on: bool) -> Outcome:
    """Ask an environment about an episode.

    Raises:
        ValueError: its reward is not a finite number; and whatever the environment raises.
    """
    observation = None
    if may_go_on or episode.turns[-1].finish_reason == "stop":
        observation = environment.respond(episode)
        if observation is not None and may_go_on:
            return Outcome(observation=observation)
    scored: Any = environment.score(episode)
    reward, detail = (scored.reward, scored.detail) if isinstance(scored, Scored) else (scored, None)
    if not isinstance(reward, Real) or not math.isfinite(reward):
        raise ValueError(f"the reward is {reward!r}, not a finite number")
    return Outcome(reward=float(reward), cut=observation is not None, detail=detail)
