"""Problems whose answers are programs in Python, run in the sandbox.

A model answers in prose with a block of code at its end. For the mathematical problems the program makes the
construction, which is what is kept and verified; what it claims of it is not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from codex_ray.config.fields import build
from codex_ray.config.sandbox import Sandbox as Settings
from codex_ray.discover.problem import Refused, Spoken, Subject, figure_of
from codex_ray.discover.problems.autocorrelation import FirstAutocorrelation, SecondAutocorrelation
from codex_ray.discover.problems.blocks import PYTHON, last_block
from codex_ray.discover.problems.circles import Circles
from codex_ray.discover.problems.erdos import Erdos
from codex_ray.discover.problems.verdict import Verdict
from codex_ray.sandbox.sandbox import Sandbox
from codex_ray.sandbox.wire import plain

FUNCTION = "propose"

_CONTRACT = """\
Write one Python program in a block of code at the end of your answer. It defines `{call}`, which is
given {given}. It has {seconds:g} seconds, {memory} MB and no files, network or other programs;
{modules} can be imported. What it returns is graded anew: a figure that it claims is not read."""


class InSandbox:
    """What has a sandbox of its own, made when it is first needed and kept.

    Args:
        given: settings of the sandbox that a user gave.
        usual: settings where the user gave none.

    Raises:
        ConfigError: a setting is unknown or impossible.
    """

    def __init__(self, given: Mapping[str, Any] | None, **usual: Any) -> None:
        self.limits = build(Settings, {**usual, **(given or {})}, "options.sandbox.")

    @cached_property
    def sandbox(self) -> Sandbox:
        """The sandbox.

        Raises:
            CodexRayError: this host has no layer for it, or not the modules.
        """
        return Sandbox(self.limits)

    def described(self, call: str, given: str) -> str:
        """Return what a model is told of its program."""
        return _CONTRACT.format(
            call=call,
            given=given,
            seconds=self.limits.wall_seconds,
            memory=self.limits.memory_bytes // 10**6,
            modules=", ".join(["the standard library", *self.limits.modules]),
        )


class Programs(Spoken):
    """A subject whose solutions programs make.

    A solution is ``{"made": the construction, "program": what made it}``; a seed has no program.

    Args:
        subject: what is sought.
        task: what it is, in words.
        form: what a program is given and returns.
        sandbox: settings of the sandbox, those of ``codex_ray/config/sandbox.py``.
    """

    def __init__(self, subject: Subject, task: str, form: str, sandbox: Mapping[str, Any] | None) -> None:
        super().__init__(subject)
        self._task, self._form = task, form
        self._cell = InSandbox(sandbox, wall_seconds=30.0, cpu_seconds=30, processes=1, result_bytes=2**22)

    def seeds(self, seed: int, count: int) -> list[Any]:
        """See :meth:`codex_ray.discover.problem.Subject.seeds`."""
        return [{"made": made, "program": ""} for made in self.subject.seeds(seed, count)]

    def verify(self, solution: Any) -> Verdict:
        """Grade the construction alone."""
        if not isinstance(solution, dict) or set(solution) != {"made", "program"}:
            return Verdict.refused('a solution is {"made": a construction, "program": what made it}')
        return self.subject.verify(solution["made"])

    def identity(self, solution: Any) -> Any:
        """Return the construction: another program that makes the same one adds nothing."""
        return self.subject.identity(solution["made"])

    def certificate(self, solution: Any) -> dict[str, Any]:
        """See :meth:`codex_ray.discover.problem.Subject.certificate`."""
        return self.subject.certificate(solution["made"])

    def draw(self, solution: Any) -> str:
        """See :meth:`codex_ray.discover.problem.Subject.draw`."""
        return self.subject.draw(solution["made"])

    def prompt(self, solution: Any, verdict: Verdict) -> str:
        """Tell the task, what is to be bettered, and the program that made it."""
        given = f"{self._form} to start from, and returns a better one in the same form"
        known = [f"{bound.figure:.8g} ({bound.source})" for bound in self.bounds]
        parts = [
            self._task,
            f"To {self.direction}. Now: {figure_of(verdict):.10g}."
            + (f" Known: {', '.join(known)}." if known else ""),
            self._cell.described(f"{FUNCTION}(parent, seconds)", given),
        ]
        if solution["program"]:
            parts.append(f"The program that made what there is now:\n```python\n{solution['program']}```")
        return "\n\n".join(parts)

    def read(self, solution: Any, text: str) -> Any:
        """Run the answer's program on the construction to start from, and return what it makes."""
        program = last_block(text, PYTHON)
        seconds = self._cell.limits.wall_seconds
        done = self._cell.sandbox.call(program, FUNCTION, solution["made"], 0.9 * seconds)
        if not done.ok:
            raise Refused(done.reason)
        made = plain(done.value)
        if made == solution["made"]:
            raise Refused("the program returned what it was given")
        return {"made": made, "program": program}


_STEPS = "a list of numbers, the values of equal steps,"


class ErdosPrograms(Programs):
    """Programs for Erdős's minimum overlap problem."""

    def __init__(self, steps: int = 48, sandbox: Mapping[str, Any] | None = None) -> None:
        task = (
            "Erdős's minimum overlap problem: a step function h of n equal steps on [0, 2] with 0 <= h <= "
            "1 and integral 1 (the steps add up to n/2). Its bound is 2/n times max over k of sum over i of "
            "h[i] * (1 - h[i+k]), over all shifts k, terms outside the range left out. At most 1000 steps."
        )
        super().__init__(Erdos(steps), task, _STEPS, sandbox)


class FirstPrograms(Programs):
    """Programs for the first autocorrelation inequality."""

    def __init__(self, steps: int = 48, sandbox: Mapping[str, Any] | None = None) -> None:
        task = (
            "First autocorrelation inequality: a step function f >= 0 of n equal steps on [-1/4, 1/4]. "
            "Its bound is 2 n max(f*f) / (sum of f)^2, f*f the full convolution of the steps. At most 100000 "
            "steps."
        )
        super().__init__(FirstAutocorrelation(steps), task, _STEPS, sandbox)


class SecondPrograms(Programs):
    """Programs for the second autocorrelation inequality."""

    def __init__(self, steps: int = 48, sandbox: Mapping[str, Any] | None = None) -> None:
        task = (
            "Second autocorrelation inequality: a step function f >= 0 of n equal steps on [-1/4, 1/4]. "
            "Its bound is ||f*f||_2^2 / (||f*f||_1 ||f*f||_inf), f*f piecewise linear. At most 100000 steps."
        )
        super().__init__(SecondAutocorrelation(steps), task, _STEPS, sandbox)


class CirclePrograms(Programs):
    """Programs for circles in the unit square."""

    def __init__(self, count: int, sandbox: Mapping[str, Any] | None = None) -> None:
        task = (
            f"{count} circles in the unit square, none over another or a wall: the sum of their "
            "radii. The check is exact, in fractions of the very numbers that are returned: leave a "
            "little room, such as 1e-12."
        )
        form = f"[centres, radii], {count} pairs and {count} numbers,"
        super().__init__(Circles(count), task, form, sandbox)


class TwentySixPrograms(CirclePrograms):
    """Of 26 circles."""

    def __init__(self, sandbox: Mapping[str, Any] | None = None) -> None:
        super().__init__(26, sandbox)


class ThirtyTwoPrograms(CirclePrograms):
    """Of 32 circles."""

    def __init__(self, sandbox: Mapping[str, Any] | None = None) -> None:
        super().__init__(32, sandbox)
