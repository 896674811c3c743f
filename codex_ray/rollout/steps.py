"""The sequences of one step, from prompts to rollouts: which tasks there are, and what follows from answers.

Sequences are numbered prompt by prompt and cut into parts. A part's sequences are sampled together, turn by
turn: its next turn begins when the environment has answered all of this one's, so that what is sampled
together does not depend on who answered first. Other parts use the actors meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from codex_ray.config.rollout import Rollouts
from codex_ray.errors import CodexRayError
from codex_ray.rollout.episode import (
    Continuation,
    Episode,
    Failure,
    Outcome,
    Prompt,
    Rollout,
    Task,
    Turn,
    turn_seed,
)
from codex_ray.rollout.sampling import Sampling


@dataclass(frozen=True)
class Order:
    """What is asked of the pool: ``samples`` completions of each prompt.

    ``version`` is of the weights that sample; None takes the newest. ``max_new_tokens`` and ``stop`` are the
    pool's where they are None.
    """

    step: int
    version: int | None
    prompts: Sequence[Prompt]
    samples: int
    sampling: Sampling
    max_new_tokens: int | None = None
    stop: Sequence[str] | None = None


class Step:
    """One order on its way; a state machine without clock or processes.

    Args:
        order: what is asked; ``version``: of the weights that sample it.
        settings: sizes and limits.
        seed: that all draws derive from.
        scored: whether an environment judges the sequences.

    Raises:
        CodexRayError: the order has no sequences.
    """

    def __init__(self, order: Order, version: int, settings: Rollouts, seed: int, *, scored: bool) -> None:
        if not order.prompts or order.samples < 1:
            raise CodexRayError(
                f"step {order.step} has {len(order.prompts)} prompts with {order.samples} samples each; give "
                "at least one of both"
            )
        self.order, self.version = order, version
        self.rollouts: dict[int, Rollout] = {}
        self.filtered: dict[int, str] = {}
        self.failures: dict[int, Failure] = {}
        self.tokens, self.seconds = 0, 0.0  # sampled, and how long actors took for them
        self._settings, self._seed, self._scored = _of_order(settings, order), seed, scored
        self._episodes = [
            Episode(order.step, position, sample, version, prompt)
            for position, prompt in enumerate(order.prompts)
            for sample in range(order.samples)
        ]
        self._judged: dict[int, set[int]] = {}  # by part, sequences whose turn is being judged
        self._going_on: dict[int, dict[int, str]] = {}  # and observations of those that go on

    @property
    def keys(self) -> list[tuple[int, int, int]]:
        """Names of the step's sequences."""
        return [episode.key for episode in self._episodes]

    @property
    def done(self) -> bool:
        """Whether every sequence is finished or left out."""
        return len(self.rollouts) + len(self.filtered) == len(self._episodes)

    def tasks(self) -> list[Task]:
        """Return the first turn's tasks."""
        together, count = self._settings.together, len(self._episodes)
        return [
            self._task(part, 0, {number: "" for number in range(start, min(start + together, count))})
            for part, start in enumerate(range(0, count, together))
        ]

    def sampled(self, task: Task, turns: Sequence[Turn]) -> list[int]:
        """Take a task's turns, in its order; returns the numbers of the sequences to be judged."""
        numbers = self._going_on.pop(task.part)
        for number, turn in zip(numbers, turns, strict=True):
            episode = self._episodes[number]
            self._episodes[number] = replace(episode, turns=(*episode.turns, turn))
        if not self._scored:
            for number in numbers:
                self._finish(number, Outcome(), None)
            return []
        self._judged[task.part] = set(numbers)
        self._going_on[task.part] = {}
        return list(numbers)

    def episode(self, number: int) -> Episode:
        """Return a sequence as it stands."""
        return self._episodes[number]

    def may_go_on(self, number: int) -> bool:
        """Whether the environment may answer a sequence with an observation, and not only with its reward."""
        turns = self._episodes[number].turns
        forced = len(turns[-1].ids) == self._settings.turn_tokens and self._room(number) > 0
        return (turns[-1].finish_reason == "stop" or forced) and len(turns) < self._settings.max_turns

    def judged(self, number: int, outcome: Outcome) -> Task | None:
        """Take the environment's answer; returns the task that can begin because of it.

        Raises:
            CodexRayError: the answer is neither an observation nor a reward.
        """
        if outcome.observation is not None:
            self._going_on[self._part(number)][number] = outcome.observation
        elif outcome.reward is not None:
            self._finish(number, outcome, None)
        else:
            raise CodexRayError(
                f"the environment gave neither observation nor reward to {self._episodes[number].key}"
            )
        return self._next(number)

    def failed(self, number: int, failure: Failure) -> Task | None:
        """Take note that a sequence could not be judged; returns the task that can begin because of it."""
        self.failures[number] = failure
        if self._settings.failure_reward is None:
            self.filtered[number] = failure.kind
        else:
            self._finish(number, Outcome(reward=self._settings.failure_reward), failure.kind)
        return self._next(number)

    def accepted(self) -> list[Rollout]:
        """Return the finished sequences in order, each with its group's rewards."""
        groups: dict[int, list[float]] = {}
        ordered = [self.rollouts[number] for number in sorted(self.rollouts)]
        for rollout in ordered:
            if rollout.reward is not None:
                groups.setdefault(rollout.position, []).append(rollout.reward)
        return [replace(one, group_rewards=tuple(groups.get(one.position, ()))) for one in ordered]

    def _part(self, number: int) -> int:
        return number // self._settings.together

    def _next(self, number: int) -> Task | None:
        part = self._part(number)
        self._judged[part].remove(number)
        going_on = self._going_on[part]
        if self._judged[part] or not going_on:
            return None
        turn = len(self._episodes[next(iter(going_on))].turns)
        return self._task(part, turn, dict(sorted(going_on.items())))

    def _room(self, number: int) -> int:
        """Return how many tokens may still follow a sequence."""
        episode = self._episodes[number]
        return self._settings.max_new_tokens - (len(episode.ids) - len(episode.prompt.ids))

    def _finish(self, number: int, outcome: Outcome, failure: str | None) -> None:
        episode = self._episodes[number]
        reason = "turns" if outcome.cut else episode.turns[-1].finish_reason
        self.rollouts[number] = Rollout.of(episode, outcome, failure, reason)

    def _task(self, part: int, turn: int, observations: dict[int, str]) -> Task:
        """Put a turn of a part together; in the first nothing was observed."""
        self._going_on[part] = observations
        continuations = []
        for number, observation in observations.items():
            episode = self._episodes[number]
            seed = turn_seed(self._seed, *episode.key, turn)
            told = observation if turn else None
            room = self._room(number)
            if not turn:
                room = min(room, self._settings.turn_tokens or room)
            continuations.append(Continuation(episode.ids, told, room, seed))
        return Task(
            self.order.step,
            part,
            turn,
            self.version,
            part * self._settings.together,
            self.order.sampling,
            tuple(self._settings.stop),
            self._settings.slots,
            tuple(continuations),
        )


def _of_order(settings: Rollouts, order: Order) -> Rollouts:
    """Return the settings with what the order has of its own."""
    own: dict[str, Any] = {} if order.stop is None else {"stop": list(order.stop)}
    if order.max_new_tokens is not None:
        own["max_new_tokens"] = order.max_new_tokens
    return replace(settings, **own)


def to_submit(step: int, first: int, staleness: int, last: int | None = None) -> range:
    """Return which steps a trainer submits before it collects ``step``, so that all are submitted once.

    Args:
        step: that it is at; ``first``: at which it began, with nothing submitted before.
        staleness: how many steps ahead are sampled while it trains.
        last: the last step that there will be, where that is known.
    """
    begin = first if step == first else step + staleness
    end = step + staleness
    return range(begin, (end if last is None else min(end, last)) + 1)


def share(rollouts: Sequence[Rollout], rank: int, world_size: int) -> list[Rollout]:
    """Return a rank's part: consecutive sequences, as many as the others have or one less."""
    first, last = (len(rollouts) * place // world_size for place in (rank, rank + 1))
    return list(rollouts[first:last])
