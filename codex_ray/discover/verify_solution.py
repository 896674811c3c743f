"""The ``discover verify`` verb: a solution's file is graded alone, without the run that found it.

The file may be a stranger's. It names a problem that is here, and never what is run on this machine: a class
by dotted path, a command, and settings of the sandbox are the user's to give.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codex_ray.config.discover import VerifySolution, with_score
from codex_ray.discover.problem import Problem, figure_of, find_problem
from codex_ray.discover.registry import COMMAND, PROBLEMS
from codex_ray.discover.solution import read_solution
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.track.progress import Progress


@dataclass(frozen=True)
class Verified:
    """A solution that holds: its figure as computed here, the one that the file says, and a certificate."""

    problem: str
    figure: float
    said: float | None
    certificate: dict[str, Any]


def verify(settings: VerifySolution, progress: Progress | None = None) -> Verified:
    """Grade a solution's file.

    Raises:
        ConfigError: what to grade it by must be given.
        CodexRayError: it is no solution's file, no solution, or not worth what it says.
    """
    settings = with_score(settings)
    path = Path(settings.file).expanduser()
    held = read_solution(path)
    problem = _problem_of(settings, held, path)
    try:
        verdict = problem.verify(held["solution"])
        certificate = problem.certificate(held["solution"]) if verdict.valid else {}
    except CodexRayError:
        raise
    except Exception as error:  # a user's verifier, or a solution that nobody thought of
        raise CodexRayError(
            f"{path} cannot be graded: the verifier of {problem.name} raised {type(error).__name__}: {error}"
        ) from error
    if not verdict.valid:
        raise CodexRayError(f"{path} holds no solution of {problem.name}: {verdict.reason}")
    figure, said = figure_of(verdict), held.get("figure")
    if said is not None and said != figure and problem.repeatable:
        raise CodexRayError(
            f"{path} says {said!r} and is worth {figure!r}, computed again; what a file says does not count"
        )
    shown = progress or Progress()
    rows: list[tuple[str, Any]] = [("figure, computed again", f"{figure:.12g}"), ("to", problem.direction)]
    if said is not None:
        rows.append(("the file says", f"{said!r}"))
    if problem.baseline is not None:
        rows.append(("baseline", f"{problem.baseline.figure:.10g} ({problem.baseline.source})"))
    rows += [("published", f"{bound.figure:.10g} ({bound.source})") for bound in problem.bounds]
    rows += [(name, _short(value)) for name, value in certificate.items()]
    shown.table(f"{problem.name}: valid", rows)
    return Verified(problem.name, figure, said, certificate)


def _problem_of(settings: VerifySolution, held: dict[str, Any], path: Path) -> Problem:
    name, language, options = held.get("problem"), held.get("language"), held.get("options") or {}
    if not isinstance(name, str) or not isinstance(language, str | None) or not isinstance(options, dict):
        raise CodexRayError(
            f"{path} does not name its problem, language and options as a solution's file does"
        )
    if settings.problem is None and (name not in PROBLEMS or name == COMMAND):
        raise ConfigError(
            f"{path} is of problem={name[:100]}, which runs code of your own; if it is yours, name it as "
            "well, with its options or score: discover verify FILE problem=NAME 'options={...}'"
        )
    own = {key: value for key, value in options.items() if key != "sandbox"}
    if settings.problem is not None and settings.problem != name:
        raise ConfigError(
            f"{path} is of problem={name[:100]} and problem={settings.problem} was given; name the same"
        )
    if name == COMMAND or name not in PROBLEMS:
        own = {}  # what is run is the user's to say
    return find_problem(name, language, {**own, **settings.options})


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:100]} ... ({len(text)} characters)"
