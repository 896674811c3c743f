"""Python as a tool: an environment in which what a model writes between two marks is run in a sandbox."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from codex_ray.rollout.environment import Environment
from codex_ray.rollout.episode import Episode, Scored

if TYPE_CHECKING:
    from codex_ray.sandbox.sandbox import Sandbox

SECONDS, LONGEST = 5.0, 500  # of a program; characters of what it printed that are read
_ASKED = re.compile(r"<python>((?:(?!<python>).)*)</python>$", re.DOTALL)


@dataclass(frozen=True)
class Python:
    """Python within the text: after ``<python>print(2**9)</python>`` the model reads what was printed.

    It reads ``<output>512</output>``, or the last line of an error, and writes on. Every program runs by
    itself in a sandbox, for five seconds at the most, and has the standard library alone. The reward is
    ``verify(problem, text)`` of all that was written and read.
    """

    stop: ClassVar[tuple[str, ...]] = ("</python>",)
    verify: Callable[[Any, str], float]

    def __call__(self) -> Environment:
        """Start a sandbox in this process.

        Raises:
            CodexRayError: this host cannot hold one.
        """
        from codex_ray.config.sandbox import Sandbox as Settings
        from codex_ray.sandbox.sandbox import Sandbox

        return _Running(self.verify, Sandbox(Settings(wall_seconds=SECONDS, modules=[])))


@dataclass(frozen=True)
class _Running:
    verify: Callable[[Any, str], float]
    sandbox: Sandbox

    def respond(self, episode: Episode) -> str | None:
        asked = _ASKED.search(episode.turns[-1].written)
        if asked is None:
            return None
        done = self.sandbox.run(asked[1])
        errors = done.stderr.strip().splitlines() or [done.reason]
        told = done.stdout.strip() if done.ok else errors[-1]
        return f"<output>{told[:LONGEST]}</output>"

    def score(self, episode: Episode) -> float | Scored:
        return self.verify(episode.problem, episode.transcript)
