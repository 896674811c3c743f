"""What scores a search's rollouts, in the scorers' processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from codex_ray.discover.problem import Problem, answer, figure_of, find_problem, key_of
from codex_ray.discover.problems.verdict import Verdict
from codex_ray.rollout.environment import Environment
from codex_ray.rollout.episode import Episode, Scored


@dataclass(frozen=True)
class Start:
    """What a rollout starts from: a state of the archive, by number, and its solution."""

    number: int
    solution: Any


@dataclass(frozen=True)
class Grading:
    """Builds the grader of a problem by its name; ``forced`` ends a first turn that was too long."""

    problem: str
    language: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    forced: str | None = None

    def __call__(self) -> Environment:
        """Build it."""
        return Grader(find_problem(self.problem, self.language, self.options), self.forced)


class Grader:
    """Grades completions; the reward goes to training, all else to the archive."""

    def __init__(self, problem: Problem, forced: str | None) -> None:
        self._problem, self._forced = problem, forced

    def respond(self, episode: Episode) -> str | None:
        """Force a first turn that was cut to come to its answer; any other ends the episode."""
        first = len(episode.turns) == 1
        return self._forced if first and episode.turns[0].finish_reason == "length" else None

    def score(self, episode: Episode) -> Scored:
        """Grade what was written; what was cut off is no answer."""
        if episode.turns[-1].finish_reason == "length":
            return _scored(Verdict.refused("it was cut off at rollout.max_new_tokens"), None)
        got = answer(self._problem, episode.problem.solution, episode.answer)
        key = key_of(self._problem.identity(got.solution)) if got.verdict.valid else ""
        return _scored(got.verdict, got.solution, key)


def _scored(verdict: Verdict, solution: Any, key: str = "") -> Scored:
    known: dict[str, Any] = {"valid": verdict.valid, "value": verdict.value, "figure": figure_of(verdict)}
    if verdict.valid:
        known |= {"solution": solution, "key": key}
    else:
        known["reason"] = verdict.reason
    return Scored(verdict.reward if verdict.valid else 0.0, known)
