"""Rewards of answers by name: those that are here, and a user's own function by dotted path."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from codex_ray.errors import ConfigError, nearest
from codex_ray.rollout.environment import Environment, SingleTurn

Reward = Callable[[Mapping[str, Any], str], float]
"""Takes a row (``prompt`` and ``response``, or ``messages``) and an answer's text."""

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


REWARDS: dict[str, Reward] = {"exact": exact, "last_number": last_number, "places": places}


def find_reward(name: str, key: str = "on_policy.reward") -> Reward:
    """Return a reward by its name, or a function by its dotted path; ``key`` says in errors who asks.

    Raises:
        ConfigError: there is none of that name.
    """
    if name in REWARDS:
        return REWARDS[name]
    module, _, attribute = name.replace(":", ".").rpartition(".")
    if not module:
        raise ConfigError(
            f"{key}={name} is none of {', '.join(REWARDS)}{nearest(name, REWARDS)}; a function of "
            "yours is named by its dotted path, such as rewards.mine"
        )
    try:
        found: Reward = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{key}={name} cannot be imported ({error}); put its module on PYTHONPATH"
        ) from error
    return found


@dataclass(frozen=True)
class ByName:
    """Builds the environment of a reward, in the scorer's process."""

    name: str

    def __call__(self) -> Environment:
        """Build it."""
        return SingleTurn(find_reward(self.name))
