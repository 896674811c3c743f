"""What a search asks of a problem: where to start, what a model is told, what its answer is and is worth.

A user's problem is one class derived from :class:`Problem`, named by its dotted path. Those that are here
keep what is sought apart from how a model writes it (:class:`Spoken`), for each can be written in more ways
than one.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codex_ray.discover.problems.verdict import Verdict
from codex_ray.errors import ConfigError, nearest
from codex_ray.plugins import find, is_own, load

MINIMISE, MAXIMISE = "minimise", "maximise"


class Refused(Exception):  # no error of the run: an answer that is no solution
    """An answer cannot be made a solution; the reason goes into the records."""


@dataclass(frozen=True)
class Bound:
    """A published figure, and whose it is."""

    figure: float
    source: str


@dataclass(frozen=True)
class Answer:
    """What a completion came to: a solution, where it is one, and its grade."""

    solution: Any
    verdict: Verdict


class Subject(ABC):
    """What is sought, however it is written.

    Solutions are JSON: numbers, text, lists and mappings of them. They are the whole state of a search: what
    is verified again later is what was kept.

    Attributes:
        name: as a user gives it.
        direction: ``minimise`` or ``maximise``, of a verdict's ``figure``. ``value`` always rises.
        baseline: what a simple construction reaches.
        bounds: published figures, the weakest first; none where nothing is known.
        repeatable: whether a solution has the same figure every time; a time has not.
    """

    name: str
    direction: str = MAXIMISE
    baseline: Bound | None = None
    bounds: Sequence[Bound] = ()
    repeatable: bool = True

    @abstractmethod
    def seeds(self, seed: int, count: int) -> list[Any]:
        """Return valid solutions to start from; the same for the same seed."""

    @abstractmethod
    def verify(self, solution: Any) -> Verdict:
        """Grade what is claimed to be a solution, computing everything again; never raises for bad ones."""

    def identity(self, solution: Any) -> Any:
        """Return what tells solutions apart: two that are alike in it are one to a search."""
        return solution

    def certificate(self, solution: Any) -> dict[str, Any]:
        """Return what a reader can check a solution by, such as an exact fraction; JSON."""
        return {}

    def draw(self, solution: Any) -> str:
        """Return an SVG drawing of a solution; empty where there is nothing to see."""
        return ""

    def direct(self) -> tuple[float, str] | None:
        """Return what an optimiser reaches without any model, and what it is; None where none is known."""
        return None


class Problem(Subject):
    """What is sought, and how a model is asked and answers.

    Attributes:
        stop: strings that end an answer, where ``rollout.stop`` names none.
    """

    stop: Sequence[str] = ()

    @abstractmethod
    def prompt(self, solution: Any, verdict: Verdict) -> str:
        """Return what the model reads: the solution to start from, and how good it is."""

    @abstractmethod
    def read(self, solution: Any, text: str) -> Any:
        """Return the solution that a completion makes of the one it started from.

        Raises:
            Refused: it makes none.
        """


class Spoken(Problem):
    """A subject in one way of writing it; derive ``prompt`` and ``read``."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.name, self.direction = subject.name, subject.direction
        self.baseline, self.bounds = subject.baseline, subject.bounds
        self.repeatable = subject.repeatable

    def seeds(self, seed: int, count: int) -> list[Any]:
        """See :meth:`Subject.seeds`."""
        return self.subject.seeds(seed, count)

    def verify(self, solution: Any) -> Verdict:
        """See :meth:`Subject.verify`."""
        return self.subject.verify(solution)

    def identity(self, solution: Any) -> Any:
        """See :meth:`Subject.identity`."""
        return self.subject.identity(solution)

    def certificate(self, solution: Any) -> dict[str, Any]:
        """See :meth:`Subject.certificate`."""
        return self.subject.certificate(solution)

    def draw(self, solution: Any) -> str:
        """See :meth:`Subject.draw`."""
        return self.subject.draw(solution)

    def direct(self) -> tuple[float, str] | None:
        """See :meth:`Subject.direct`."""
        return self.subject.direct()


def answer(problem: Problem, solution: Any, text: str) -> Answer:
    """Grade a completion that started from ``solution``.

    A verdict that contradicts itself (valid, with a value or reward that is not finite) is refused, whoever
    wrote the problem.
    """
    try:
        found = problem.read(solution, text)
    except Refused as refused:
        return Answer(None, Verdict.refused(str(refused)))
    verdict = problem.verify(found)
    if not isinstance(verdict, Verdict):
        raise TypeError(f"verify returned a {type(verdict).__name__} and not a Verdict")
    if not verdict.valid:
        return Answer(None, verdict)
    for name in ("value", "reward"):
        number = getattr(verdict, name)
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            return Answer(None, Verdict.refused(f"the verifier gave a {name} of {number!r}"))
    return Answer(found, verdict)


def key_of(solution: Any) -> str:
    """Name a solution, so that the same one is known again."""
    text = json.dumps(solution, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def best_known(subject: Subject) -> float | None:
    """Return the best published figure, if there is one."""
    figures = [bound.figure for bound in subject.bounds]
    if not figures:
        return None
    return min(figures) if subject.direction == MINIMISE else max(figures)


def figure_of(verdict: Verdict) -> float:
    """Return the number that people know a solution by: the value, where a problem has no other."""
    return verdict.value if verdict.figure is None else verdict.figure


def find_problem(name: str, language: str | None, options: Mapping[str, Any]) -> Problem:
    """Return a problem by its name, or a user's class by its dotted path, made with ``options``.

    Args:
        name: of the problem, or ``package.module.Class``.
        language: how a model writes its solutions, where a problem knows several; None is the first.
        options: what the problem's class is called with.

    Raises:
        ConfigError: there is none of that name, it cannot be imported, or does not take these options.
    """
    from codex_ray.discover.registry import PROBLEMS

    if is_own("problems", name):
        languages = PROBLEMS[name]
        language = next(iter(languages)) if language is None else language
        if language not in languages:
            raise ConfigError(
                f"problem={name} cannot be written in language={language}{nearest(language, languages)}; it "
                f"has {', '.join(languages)}"
            )
        build = load("problems", languages[language], f"problem={name}")
    else:
        build = find("problems", name, "problem")
    try:
        made: Problem = build(**options)
    except TypeError as error:
        raise ConfigError(f"problem={name} does not take options={dict(options)}: {error}") from error
    return made
