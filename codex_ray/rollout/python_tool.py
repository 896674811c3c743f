"""Python within a model's text: it writes a program, reads what that prints, and writes on."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from codex_ray.config.sandbox import Sandbox as Settings
from codex_ray.rollout.environment import Environment
from codex_ray.rollout.episode import Episode
from codex_ray.sandbox.sandbox import Sandbox

LONGEST_OUTPUT = 2000  # characters that a model is given to read
_ASKED = re.compile(r"<python>(.*?)</python>\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Python:
    """A sandbox within the text: after ``<python>print(12 * 34)</python>`` the model reads
    ``<output>408</output>`` and writes on.

    Each program runs by itself, in a sandbox of its own; what it fails by is read in the place of what it
    prints. The reward is ``verify(problem, text)`` of all that was written and read.
    """

    stop: ClassVar[tuple[str, ...]] = ("</python>",)
    verify: Callable[[Any, str], float]
    settings: Settings = field(default_factory=lambda: Settings(wall_seconds=5.0, cpu_seconds=5, processes=1))

    def __call__(self) -> Environment:
        """Build it, with a sandbox that lives as long as the scorer."""
        return _Running(self.verify, Sandbox(self.settings))


class _Running:
    def __init__(self, verify: Callable[[Any, str], float], sandbox: Sandbox) -> None:
        self._verify, self._sandbox = verify, sandbox

    def respond(self, episode: Episode) -> str | None:
        asked = _ASKED.search(episode.turns[-1].written)
        if asked is None:
            return None
        done = self._sandbox.run(asked[1])
        read = done.stdout[:LONGEST_OUTPUT].rstrip("\n") + (
            "" if done.ok else f"\n{done.reason[:LONGEST_OUTPUT]}"
        )
        return f"<output>{read.strip()}</output>"

    def score(self, episode: Episode) -> float:
        return self._verify(episode.problem, episode.transcript)
