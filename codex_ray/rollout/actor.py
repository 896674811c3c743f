"""The actor that samples: a model, its weights' version, and one task at a time.

Plain Python; :mod:`codex_ray.rollout.pool` makes it a Ray actor.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from codex_ray.plugins import find
from codex_ray.rollout.episode import Continuation, Task, Turn
from codex_ray.rollout.layout import Layout

if TYPE_CHECKING:
    from codex_ray.config.common import Device
    from codex_ray.config.train import Lora
    from codex_ray.rollout.layout import Packed
    from codex_ray.rollout.request import Completion
    from codex_ray.tokenizer import Tokenizer

Builder = Callable[[], "tuple[Any, Tokenizer]"]
"""Makes the model that samples, on its device, and its tokenizer; called in the actor's process."""


@dataclass(frozen=True)
class FromFolder:
    """Builds from a model folder, a run folder or a Hub name.

    ``lora`` puts adapters into the model as training does, so that they alone need be published.
    ``sampler`` is ``own`` or a component of the kind ``engines``.
    """

    model: str
    compute: Device
    revision: str | None = None
    lora: Lora | None = None
    sampler: str = "own"

    def __call__(self) -> tuple[Any, Tokenizer]:
        """Load both.

        Raises:
            CodexRayError: either is missing or damaged.
            ConfigError: the adapters fit no module of the model, or vLLM is not installed.
        """
        if self.sampler != "own":
            engine = find("engines", self.sampler, "rollout.sampler")
            loaded: tuple[Any, Tokenizer] = engine.load(self.model, self.revision, self.compute)
            return loaded
        from codex_ray.model.adapter import with_adapters
        from codex_ray.rollout.load import load_with_tokenizer

        model, tokenizer = load_with_tokenizer(self.model, self.revision, self.compute)
        if self.lora is not None and self.lora.rank:
            model = with_adapters(model, self.lora, seed=0)  # they do nothing until some are published
        return model, tokenizer


@dataclass(frozen=True)
class Sampled:
    """A task's result: its turns in order, what weights sampled them, and how long it took."""

    turns: list[Turn]
    version: int
    checksum: int
    seconds: float

    @property
    def tokens(self) -> int:
        """Tokens sampled."""
        return sum(len(turn.ids) for turn in self.turns)


class SamplingActor:
    """Holds a model and samples tasks with it."""

    def __init__(self, build: Builder, threads: int) -> None:
        self._build, self._threads = build, threads
        self._model: Any = None
        self._tokenizer: Any = None
        self._version = -1  # as it was built
        self._checksum = 0

    def start(self) -> Layout:
        """Build the model; returns what parameters it has.

        Raises:
            CodexRayError: it cannot be built.
        """
        import torch

        torch.set_num_threads(self._threads)
        self._model, self._tokenizer = self._build()
        self._model.requires_grad_(False)
        return Layout.of(self._model)

    def process(self) -> int:
        """Number of the process."""
        return os.getpid()

    def sample(self, task: Task, weights: Sequence[Any]) -> Sampled:
        """Sample a task's turns with the weights of its version.

        Args:
            task: what to sample.
            weights: the object that holds them; nothing where the model is to be as it was built.

        Raises:
            CodexRayError: a prompt that the model cannot continue, logits that are not finite, or weights
                that are not those published.
        """
        started = time.perf_counter()
        if weights and task.version != self._version:
            self._swap(task.version, weights[0])
        turns = sample_task(self._model, self._tokenizer, task)
        return Sampled(turns, self._version, self._checksum, time.perf_counter() - started)

    def _swap(self, version: int, reference: Any) -> None:
        import ray

        from codex_ray.rollout.weights import swap

        packed: Packed = ray.get(reference)
        self._checksum = swap(self._model, packed)
        self._version = version
        if refresh := getattr(self._model, "refresh", None):  # an engine's
            refresh()


def sample_task(model: Any, tokenizer: Tokenizer, task: Task) -> list[Turn]:
    """Sample one turn of each of a task's sequences, together and with a fresh cache.

    Raises:
        CodexRayError: a prompt that the model cannot continue, or logits that are not finite.
    """
    from codex_ray.rollout.request import Request
    from codex_ray.rollout.sampler import Sampler

    told = [_observe(tokenizer, continuation) for continuation in task.continuations]
    rooms = [one.room - len(ids) for one, ids in zip(task.continuations, told, strict=True)]
    turns = [Turn(None, [], [], "", "", [], [], "length") for _ in told]
    open_ones = [place for place, room in enumerate(rooms) if room > 0]
    if not open_ones:
        return turns
    longest = max(len(task.continuations[place].ids) + len(told[place]) + rooms[place] for place in open_ones)
    slots = min(task.slots, len(open_ones))
    engine = getattr(model, "sampler", None)
    sampler = (engine or partial(Sampler, model))(tokenizer, slots=slots, capacity=longest)
    places = {}
    for place in open_ones:
        one = task.continuations[place]
        prompt = [*one.ids, *told[place]]
        if task.turn and len(prompt) >= sampler.capacity:
            continue  # the model's longest sequence: an episode that came this far ends here
        request = Request(prompt, rooms[place], task.sampling, one.seed, task.stop)
        places[sampler.submit(request)] = place
    while sampler.running:
        for drawn in sampler.step():
            if drawn.completion is not None:
                place = places[drawn.request]
                observation = task.continuations[place].observation
                turns[place] = _turn(tokenizer, observation, told[place], drawn.completion)
    return turns


def _turn(tokenizer: Tokenizer, observation: str | None, told: list[int], done: Completion) -> Turn:
    return Turn(
        observation,
        told,
        done.ids,
        done.text,
        tokenizer.decode(done.ids),
        done.logprobs,
        done.sampling_logprobs,
        done.finish_reason,
    )


def _observe(tokenizer: Tokenizer, continuation: Continuation) -> list[int]:
    return tokenizer.encode(continuation.observation) if continuation.observation else []
