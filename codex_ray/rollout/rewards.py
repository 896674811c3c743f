"""Rewards of answers and environments by name: those that are here, reward models, and a user's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codex_ray.config.common import Device
from codex_ray.plugins import find, is_own
from codex_ray.rollout.environment import Environment, EnvironmentBuilder

if TYPE_CHECKING:
    from codex_ray.config.finetune import OnPolicy
    from codex_ray.config.rollout import Rollouts

Reward = Callable[[Mapping[str, Any], str], float]
"""Takes a row (``prompt`` and ``response``, or ``messages``) and an answer's text."""

Answering = Callable[[Reward], EnvironmentBuilder]
"""Makes what builds an environment, given what judges its texts."""

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def expected(row: Mapping[str, Any]) -> str:
    """Return the answer that a row holds."""
    found: str = row["response"] if "response" in row else row["messages"][-1]["content"]
    return found


def exact(row: Mapping[str, Any], text: str) -> float:
    """Return 1 where an answer is the row's, blanks around it aside."""
    return float(text.strip() == expected(row).strip())


def last_number(row: Mapping[str, Any], text: str) -> float:
    """Return 1 where the last number of an answer is the last of the row's."""
    found, wanted = _NUMBER.findall(text), _NUMBER.findall(expected(row))
    return float(bool(found) and bool(wanted) and float(found[-1]) == float(wanted[-1]))


def places(row: Mapping[str, Any], text: str) -> float:
    """Return the share of words that stand in their place, and 0 where there are more or fewer words."""
    found, wanted = text.split(), expected(row).split()
    if len(found) != len(wanted) or not wanted:
        return 0.0
    return sum(one == other for one, other in zip(found, wanted, strict=True)) / len(wanted)


def find_reward(name: str, key: str = "on_policy.reward") -> Reward:
    """Return a reward by its name, or a function by its dotted path; ``key`` says in errors who asks.

    Raises:
        ConfigError: there is none of that name.
    """
    found: Reward = find("rewards", name, key, or_else="a folder of a reward model")
    return found


def find_environment(name: str) -> Answering:
    """Return what makes an environment of a reward, by its name or dotted path.

    Raises:
        ConfigError: there is none of that name.
    """
    found: Answering = find("scorers", name, "on_policy.environment")
    return found


def stops_of(name: str) -> tuple[str, ...]:
    """Return the strings at which an environment wants a turn to end: its ``stop``, if it has any."""
    return tuple(getattr(find_environment(name), "stop", ()))


@dataclass(frozen=True)
class Rewarded:
    """Builds, in a scorer's process, the environment of a run.

    Attributes:
        reward: name or dotted path of what judges a text; where ``model`` is set, that does.
        environment: name or dotted path of what answers turns.
        model: folder of a reward model; ``compute``: what it computes on, with so many ``threads``.
    """

    reward: str
    environment: str = "single_turn"
    model: str | None = None
    compute: Device = field(default_factory=Device)
    threads: int = 1

    def __call__(self) -> Environment:
        """Build it."""
        answering = find_environment(self.environment)
        if self.model is None:
            return answering(find_reward(self.reward))()
        from codex_ray.rollout.reward_model import ByModel

        return ByModel.load(answering(exact)(), self.model, self.compute, self.threads)


def rewarded(own: OnPolicy, settings: Rollouts, compute: Device, tokenizer: Path) -> Rewarded:
    """Return what builds the environment that settings name, after a look at whether it can.

    Args:
        own: names the reward and the environment; ``settings``: of the scorers.
        compute: what the run computes on; scorers without GPUs compute on the CPU.
        tokenizer: folder of the policy's.

    Raises:
        ConfigError: there is no such reward or environment, or the reward model reads other tokens.
        CodexRayError: the folder holds no model.
    """
    find_environment(own.environment)
    threads = max(1, int(settings.cpus_per_scorer))
    folder = Path(own.reward).expanduser()
    if is_own("rewards", own.reward) or not folder.is_dir():
        find_reward(own.reward)
        return Rewarded(own.reward, own.environment)
    from codex_ray.rollout.reward_model import refuse_other_tokenizer

    refuse_other_tokenizer(folder, tokenizer)
    device = compute.device if settings.gpus_per_scorer else "cpu"
    return Rewarded(
        own.reward, own.environment, str(folder.absolute()), replace(compute, device=device), threads
    )
