"""What is asked of rollouts, what they pass through, and what comes back: plain data.

An episode is a prompt and turns. In each turn the model writes, and an environment may answer with an
observation, after which the model writes on. Tokens are never decoded and encoded again: a later turn
continues the very ids of the earlier ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from codex_ray.rollout.sampling import Sampling


@dataclass(frozen=True)
class Prompt:
    """One prompt to be completed a number of times.

    Attributes:
        ids: tokens, the beginning-of-text token included where the model wants one.
        problem: what the environment needs to judge a completion; any picklable value.
    """

    ids: Sequence[int]
    problem: Any = None


@dataclass(frozen=True)
class Turn:
    """What the model wrote once, after what it was told.

    Attributes:
        observation: the environment's answer to the turn before, None in the first; ``observation_ids``: its
            tokens.
        ids: sampled tokens, the one that ended the turn included.
        text: their text, without an end token and cut before a stop string; ``written``: not cut.
        logprobs: natural logs of the tokens' probabilities under the model; ``sampling_logprobs``: under the
            distribution that they were drawn from.
        finish_reason: ``"stop"`` or ``"length"``.
    """

    observation: str | None
    observation_ids: list[int]
    ids: list[int]
    text: str
    written: str
    logprobs: list[float]
    sampling_logprobs: list[float]
    finish_reason: str


@dataclass(frozen=True)
class Episode:
    """A sequence on its way, as an environment sees it.

    Attributes:
        step: that it is for; ``position``: of its prompt in the step; ``sample``: which one of the prompt's.
        version: of the weights that sample it.
    """

    step: int
    position: int
    sample: int
    version: int
    prompt: Prompt
    turns: tuple[Turn, ...] = ()

    @property
    def key(self) -> tuple[int, int, int]:
        """Name of the sequence: step, position and sample."""
        return self.step, self.position, self.sample

    @property
    def problem(self) -> Any:
        """The prompt's problem."""
        return self.prompt.problem

    @property
    def text(self) -> str:
        """What the model wrote in its last turn."""
        return self.turns[-1].text if self.turns else ""

    @property
    def answer(self) -> str:
        """What the model wrote and read in all turns, without what ended them."""
        return "".join(f"{turn.observation or ''}{turn.text}" for turn in self.turns)

    @property
    def transcript(self) -> str:
        """What the model wrote and read in all turns."""
        return "".join(f"{turn.observation or ''}{turn.written}" for turn in self.turns)

    @property
    def ids(self) -> list[int]:
        """All tokens so far, the prompt's first."""
        told = [[*turn.observation_ids, *turn.ids] for turn in self.turns]
        return [*self.prompt.ids, *(token for tokens in told for token in tokens)]


@dataclass(frozen=True)
class Outcome:
    """What an environment says to an episode: an observation, or the reward of its end.

    ``cut`` says that it would have gone on, and was not let; ``detail`` is what a :class:`Scored` holds.
    """

    observation: str | None = None
    reward: float | None = None
    cut: bool = False
    detail: Any = None


@dataclass(frozen=True)
class Scored:
    """A reward, and what else an environment has to say of an episode; any picklable value."""

    reward: float
    detail: Any = None


@dataclass(frozen=True)
class Failure:
    """Why an episode has no reward, in a word or two for counting and in a sentence."""

    kind: str
    reason: str


@dataclass(frozen=True)
class Rollout:
    """A finished sequence.

    Attributes:
        step, position, sample: which sequence it is; those of one position are a group.
        version: of the weights that sampled it.
        prompt_ids: tokens of the prompt.
        completion_ids: all tokens after it; ``mask``: which of them the model sampled (the others are
            observations).
        logprobs, sampling_logprobs: as in :class:`Turn`, 0 at observations.
        text: what the model wrote, one per turn.
        finish_reason: ``"stop"``, ``"length"`` or, where the environment would have gone on, ``"turns"``.
        reward: what the environment gave; None without an environment.
        failure: the kind of failure, where scoring failed and ``reward`` is the one of a failure.
        group_rewards: rewards of all accepted sequences of its group, its own included, by sample.
        problem: the prompt's.
        detail: what the environment said beside the reward.
    """

    step: int
    position: int
    sample: int
    version: int
    prompt_ids: list[int]
    completion_ids: list[int]
    mask: list[bool]
    logprobs: list[float]
    sampling_logprobs: list[float]
    text: list[str]
    finish_reason: str
    reward: float | None
    failure: str | None
    problem: Any
    group_rewards: tuple[float, ...] = ()
    detail: Any = None

    @property
    def ids(self) -> list[int]:
        """The whole sequence's tokens, the prompt's first."""
        return [*self.prompt_ids, *self.completion_ids]

    @property
    def ids_mask(self) -> list[bool]:
        """Which tokens of the whole sequence the model sampled."""
        return [False] * len(self.prompt_ids) + self.mask

    def over_prompt(self, numbers: list[float]) -> list[float]:
        """Put zeros for the prompt's tokens before numbers of the completion's."""
        return [0.0] * len(self.prompt_ids) + numbers

    @staticmethod
    def of(episode: Episode, outcome: Outcome, failure: str | None, finish_reason: str) -> Rollout:
        """Put an episode's turns together with what came of it."""
        completion: list[int] = []
        mask: list[bool] = []
        logprobs: list[float] = []
        sampled: list[float] = []
        for turn in episode.turns:
            told = len(turn.observation_ids)
            completion += [*turn.observation_ids, *turn.ids]
            mask += [False] * told + [True] * len(turn.ids)
            logprobs += [0.0] * told + turn.logprobs
            sampled += [0.0] * told + turn.sampling_logprobs
        return Rollout(
            *episode.key,
            version=episode.version,
            prompt_ids=list(episode.prompt.ids),
            completion_ids=completion,
            mask=mask,
            logprobs=logprobs,
            sampling_logprobs=sampled,
            text=[turn.text for turn in episode.turns],
            finish_reason=finish_reason,
            reward=outcome.reward,
            failure=failure,
            problem=episode.problem,
            detail=outcome.detail,
        )


@dataclass(frozen=True)
class Continuation:
    """One sequence that a task continues.

    Attributes:
        ids: tokens so far; ``observation``: text to be put behind them first.
        room: tokens that may still follow ``ids``, the observation included.
        seed: of this turn's draws.
    """

    ids: list[int]
    observation: str | None
    room: int
    seed: int


@dataclass(frozen=True)
class Task:
    """Sequences that one actor samples together: one turn of each.

    Which these are follows from the step's positions and never from time, and an actor begins each task
    afresh. So a task has the same result wherever and whenever it is done.
    """

    step: int
    part: int
    turn: int
    version: int
    first: int
    sampling: Sampling
    stop: tuple[str, ...]
    slots: int
    continuations: tuple[Continuation, ...]

    @property
    def key(self) -> tuple[int, int, int]:
        """Name of the task; earlier steps and parts come first."""
        return self.step, self.part, self.turn

    def __str__(self) -> str:
        count = len(self.continuations)
        return f"turn {self.turn + 1} of {count} sequences from number {self.first} of step {self.step}"


def turn_seed(seed: int, step: int, position: int, sample: int, turn: int) -> int:
    """Return the seed of one turn's draws: a function of its place alone."""
    sequence = np.random.SeedSequence(seed, spawn_key=(step, position, sample, turn))
    return int(sequence.generate_state(1, np.uint64)[0])


STEP_PROMPTS = 64
"""Prompts of many that count as one step in their seeds."""
