"""Settings of ``discover``."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from codex_ray.config.fields import setting
from codex_ray.config.rollout import Rollouts
from codex_ray.config.train import TrainingRun
from codex_ray.errors import ConfigError


@dataclass(frozen=True)
class Search:
    """Which solutions are started from, and which are kept to start from."""

    groups: int = setting(8, minimum=1, help="solutions that an optimizer step starts from")
    samples: int = setting(64, minimum=2, help="rollouts from each")
    select: str = setting(
        "puct",
        choices=("puct", "greedy", "seeds"),
        help="puct: by value, rank and how often it was tried; greedy: the best, or with `epsilon` any; "
        "seeds: always those that the run began with, so that no solution is used again",
    )
    exploration: float = setting(1.0, minimum=0.0, help="puct: c, how much the little tried counts")
    epsilon: float = setting(0.1, minimum=0.0, maximum=1.0, help="greedy: probability of any other solution")
    capacity: int = setting(1000, minimum=1, help="solutions kept, the best; seeds always are")
    children: int = setting(2, minimum=1, help="best solutions kept of each group")
    count: str = setting(
        "expansion",
        choices=("expansion", "rollout"),
        help="puct: what counts as one try; rollout is what the authors' code does",
    )
    scale_over: str = setting(
        "all", choices=("all", "children"), help="puct: whose values say how large differences are"
    )


@dataclass(frozen=True)
class Learn:
    """What is learnt from rollouts."""

    objective: str = setting(
        "adaptive",
        choices=("adaptive", "constant", "expected", "standardised", "none"),
        help="adaptive: entropic, with a beta for each group; constant: entropic, with `beta`; expected: "
        "rewards beside their group's mean; standardised: over its deviation too, as GRPO; none: nothing is "
        "trained",
    )
    beta: float = setting(2.0, minimum=0.0, help="constant: how much the best of a group counts")
    divergence: float = setting(
        math.log(2), minimum=0.0, help="adaptive: nats by which each group is tilted towards its best"
    )
    shaping: float = setting(
        0.1, minimum=0.0, help="lambda: how strongly the model that the run began from holds; 0 not at all"
    )
    micro_batch_tokens: int = setting(
        4096, minimum=1, help="tokens that a worker computes at a time, padding included"
    )


@dataclass(frozen=True)
class Discover(TrainingRun):
    """Train a model on one problem while it solves it, and keep the best solution."""

    problem: str = setting("erdos_min_overlap", help="name of a problem, or your class by its dotted path")
    language: str | None = setting(
        None, help="how solutions are written, where a problem knows several ways; unset is its first"
    )
    options: dict[str, Any] = setting({}, help="what the problem's class is called with")
    score: str | None = setting(
        None, help="of problem=command: the command, with {solution} for the file that a solution is in"
    )
    model: str = setting("model", help="model folder, run folder or adapter to begin from")
    chat: bool = setting(False, help="what the model reads is a user's turn of a chat")
    forced: str | None = setting(
        None,
        help="with rollout.turn_tokens: text put behind a first turn that was too long, such as a sentence "
        "and the mark where an answer begins",
    )
    search: Search = setting(Search, help="which solutions are started from")
    learn: Learn = setting(Learn, help="what is learnt")
    rollout: Rollouts = setting(Rollouts, help="the actors that sample and score")


@dataclass(frozen=True)
class Programs:
    """Random operator programs with their effects, as text."""

    problem: str = setting("erdos_min_overlap", help="name of a problem that has operator programs")
    options: dict[str, Any] = setting({}, help="what the problem's class is called with")
    count: int = setting(20_000, minimum=1, help="programs, a line each")
    output: str = setting("programs.jsonl", help="JSONL file to write")
    seed: int = setting(1234, minimum=0, help="seed of everything that is drawn")


ARMS: dict[str, tuple[str, str]] = {
    "full": ("puct", "adaptive"),
    "greedy": ("greedy", "adaptive"),
    "constant": ("puct", "constant"),
    "expected": ("puct", "expected"),
    "standardised": ("puct", "standardised"),
    "untrained": ("puct", "none"),
    "no_reuse": ("seeds", "adaptive"),
    "naive": ("seeds", "expected"),
    "best_of_n": ("seeds", "none"),
}
"""What an ablation compares, by name: ``search.select`` and ``learn.objective``."""


@dataclass(frozen=True)
class Ablation(Discover):
    """Search the same problem in several ways with equal rollouts, over a grid and seeds."""

    arms: list[str] = setting(
        ["full", "expected", "untrained", "best_of_n"],
        choices=tuple(ARMS),
        help="ways to search; the first is compared with each other one",
    )
    learning_rates: list[float] = setting([1e-3], help="grid: values of optimizer.learning_rate")
    shapings: list[float] = setting([0.1], help="grid: values of learn.shaping")
    grid_seeds: int = setting(3, minimum=1, help="seeds of every cell of the grid")
    seeds: int = setting(8, minimum=1, help="seeds of each arm's best cell")


@dataclass(frozen=True)
class VerifySolution:
    """Grade a solution's file alone."""

    file: str = setting(help="file of a solution, such as a run's solution.json")
    problem: str | None = setting(
        None, help="problem that the file must be of; needed where it is a class or a command of yours"
    )
    options: dict[str, Any] = setting(
        {}, help="what the problem's class is called with, before what the file says; of your own code, alone"
    )
    score: str | None = setting(
        None, help="of problem=command: the command, with {solution} for the file that a solution is in"
    )


@dataclass(frozen=True)
class CompareSearches:
    """Write one report of several searches."""

    names: list[str] = setting(help="the runs' folders, or their names in `runs`")
    runs: str = setting("runs", help="folder that holds run folders")
    output: str = setting("discoveries.html", help="report to write")


Scored = TypeVar("Scored", Discover, Ablation, VerifySolution)


def with_score(settings: Scored) -> Scored:
    """Return settings whose ``score`` is where a problem looks for it, among its options."""
    if settings.score is None:
        return settings
    return replace(settings, options={**settings.options, "score": settings.score}, score=None)


def refuse_ablation(settings: Ablation, prefix: str) -> None:
    """Refuse an ablation of nothing, or one that is named twice.

    Raises:
        ConfigError: one sentence with the keys and the remedy.
    """
    for name in ("arms", "learning_rates", "shapings"):
        values = getattr(settings, name)
        if not values or len(set(values)) < len(values):
            raise ConfigError(f"{prefix}{name}={values} is empty or names one twice; give each once")
    if settings.grid_seeds > settings.seeds:
        raise ConfigError(
            f"{prefix}grid_seeds={settings.grid_seeds} is more than {prefix}seeds={settings.seeds}, which "
            "the best cell has; lower it"
        )


def refuse_search(settings: Discover, prefix: str) -> None:
    """Refuse what cannot go together in a search.

    Raises:
        ConfigError: one sentence with the keys, the numbers and the remedy.
    """
    rollout, learn = settings.rollout, settings.learn
    if settings.train.steps is None:
        raise ConfigError(
            f"{prefix}train.epochs and seconds say nothing of a search; give {prefix}train.steps"
        )
    ramps = [name for name in ("batch_ramp", "sequence_ramp") if getattr(settings.train, name)]
    others = [f"train.{name}" for name in ramps]
    others += ["train.spike_factor"] if settings.train.spike_factor else []
    others += ["validation.rows"] if settings.validation.rows else []
    others += ["cluster.sequence_parallel"] if settings.cluster.sequence_parallel > 1 else []
    if others:
        raise ConfigError(f"{prefix}{others[0]} has no meaning where no corpus is read; leave it out")
    if rollout.staleness:
        raise ConfigError(
            f"{prefix}rollout.staleness={rollout.staleness} would start from solutions before the last "
            f"step's were known; give {prefix}rollout.staleness=0"
        )
    if rollout.failure_reward not in (None, 0.0):
        raise ConfigError(
            f"{prefix}rollout.failure_reward={rollout.failure_reward:g} would reward what is no solution; it "
            "is 0 in a search, leave it out"
        )
    if (settings.forced is None) != (rollout.turn_tokens is None):
        raise ConfigError(
            f"{prefix}forced and {prefix}rollout.turn_tokens go together: the tokens after which an answer "
            "is forced, and the text that does it; give both or neither"
        )
    if learn.objective != "adaptive" and learn.divergence != Learn().divergence:
        raise ConfigError(
            f"{prefix}learn.divergence is for {prefix}learn.objective=adaptive, which finds its beta by it; "
            "leave it out"
        )
