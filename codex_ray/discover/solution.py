"""The best solution of a run as a small file that anybody can grade again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codex_ray.discover.problem import Problem, figure_of
from codex_ray.errors import CodexRayError
from codex_ray.files import read_json, write_json

NAME, TREE, FORMAT = "solution.json", "tree.json", 1


@dataclass(frozen=True)
class SolutionFile:
    """Where a run's best solution is written, and what of.

    The file holds the problem's name, language and options, ``solution``, its ``figure`` and ``value``, the
    ``step`` and number of ``rollouts`` that it was found after, the ``text`` that made it, its ``lineage``
    from a seed on and, once the run has ended, its ``certificate``. Beside it ``tree.json`` has the solutions
    that were kept when it was found: number, number of what it was made from, figure and step of each.
    """

    path: Path
    problem: str
    language: str | None
    options: Mapping[str, Any] = field(default_factory=dict)

    def write(self, best: Mapping[str, Any]) -> None:
        """Write a solution with what it was made from."""
        about = {"problem": self.problem, "language": self.language, "options": dict(self.options)}
        told = {name: value for name, value in best.items() if name != "tree"}
        write_json(self.path.with_name(TREE), best.get("tree", []))
        write_json(self.path, {"format": FORMAT, **about, **told})


def read_solution(path: Path) -> dict[str, Any]:
    """Return what a solution's file holds.

    Raises:
        CodexRayError: it is none.
    """
    held: Any = read_json(path, "the solution")
    if not isinstance(held, dict) or held.get("format") != FORMAT or "solution" not in held:
        raise CodexRayError(
            f"{path} is no solution of format {FORMAT}: an object with format, problem and solution is "
            "wanted; give the solution.json of a run"
        )
    return held


def certified(path: Path, problem: Problem) -> dict[str, Any]:
    """Grade a solution's file again and write its certificate into it; returns the whole.

    Raises:
        CodexRayError: it is no solution, or not worth what it says.
    """
    held = read_solution(path)
    verdict = problem.verify(held["solution"])
    same = not problem.repeatable or figure_of(verdict) == held["figure"]
    if not verdict.valid or not same:
        said = verdict.reason or f"its figure is {verdict.figure}"
        raise CodexRayError(
            f"{path} says {held['figure']} and graded again it does not hold ({said}); a verifier must give "
            f"the same verdict every time: mend that of {problem.name}"
        )
    held["certificate"] = problem.certificate(held["solution"])
    write_json(path, held)
    return held
