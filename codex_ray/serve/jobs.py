"""What an engine works on: samplers, requests and their sequences, and how it stands."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from codex_ray.rollout.request import Drawn, Request
from codex_ray.rollout.sampler import Sampler
from codex_ray.serve.adjusting import Adjuster
from codex_ray.serve.events import Entry, Mailbox


class Lane:
    """A model's sampler in the engine; one that failed is made anew.

    Args:
        make: makes the sampler; called in the engine's thread again after a step that failed.
    """

    def __init__(self, make: Callable[[], Sampler]) -> None:
        self.make, self.sampler = make, make()
        self.running: dict[int, tuple[Job, Track]] = {}


@dataclass(eq=False)
class Track:
    """One sequence of a job.

    Attributes:
        told: makes the entry of a drawn token, where tokens are asked for.
    """

    index: int
    request: Request
    adjuster: Adjuster | None = None
    told: Callable[[Drawn, Adjuster | None], Entry | None] | None = None
    number: int | None = None
    tokens: int = 0
    entries: list[Entry] = field(default_factory=list)


@dataclass(eq=False)
class Job:
    """A request: its sequences that have not ended, and what draws them; when it is late; where events go."""

    owner: str
    tracks: list[Track]
    lane: Lane
    deadline: float
    mailbox: Mailbox
    born: float = field(default_factory=time.monotonic)
    began: bool = False
    ended: bool = False


@dataclass
class Load:
    """How an engine stands; read from any thread."""

    running: int = 0
    waiting: int = 0
    prompt_tokens: int = 0
    drawn_tokens: int = 0
    steps: int = 0
    service_seconds: float = 1.0  # of a sequence, averaged
