"""``discover programs``: what random operator programs do, as text that a small policy is pretrained on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from codex_ray.config.discover import Programs
from codex_ray.discover.archive import Archive, Child
from codex_ray.discover.problem import Answer, answer, figure_of, find_problem, key_of
from codex_ray.discover.problems.operators import END, Operators
from codex_ray.discover.registry import OPERATORS
from codex_ray.errors import ConfigError
from codex_ray.files import write_text
from codex_ray.track.progress import Progress

GROUPS, SAMPLES, STEPS = 8, 32, 25  # of one search; then another begins from fresh seeds
ADVANCES = 100  # of the progress display


def programs(settings: Programs, progress: Progress | None = None) -> Path:
    """Write them, a line each; returns the file.

    Raises:
        ConfigError: the problem has no operator programs.
        CodexRayError: the file cannot be written.
    """
    problem = find_problem(settings.problem, OPERATORS, settings.options)
    if not isinstance(problem, Operators):
        raise ConfigError(
            f"problem={settings.problem} has no operator programs; derive it from "
            "codex_ray.discover.problems.operators.Operators"
        )
    lines: list[str] = []
    drawn = _lines(problem, settings.seed)
    every = max(1, settings.count // ADVANCES)
    with Progress() if progress is None else progress as shown:
        with shown.stage("programs", total=settings.count, unit="programs"):
            while len(lines) < settings.count:
                lines.append(json.dumps({"text": next(drawn)}))
                if len(lines) % every == 0:
                    shown.update(completed=len(lines))
        path = Path(settings.output).expanduser()
        write_text(path, "\n".join(lines) + "\n")
        shown.table("programs", [("programs", len(lines)), ("file", str(path.absolute()))])
    return path


def _lines(problem: Operators, seed: int) -> Iterator[str]:
    """Run one random search after another, so that starts are of all qualities."""
    draw = np.random.default_rng(seed)
    while True:
        archive = Archive(problem=problem.name)
        for solution in problem.seeds(int(draw.integers(2**31)), GROUPS):
            archive.seed(problem.verify(solution).value, key_of(solution), solution)
        for _ in range(STEPS):
            for number in archive.select(GROUPS):
                solution, children = archive.states[number].solution, []
                prompt = problem.prompt(solution, problem.verify(solution))
                for _ in range(SAMPLES):
                    program = problem.random_program(draw)
                    got = answer(problem, solution, program)
                    yield f"{prompt} {program} {END} {_effect(got)}"
                    if got.verdict.valid:
                        children.append(Child(got.verdict.value, key_of(got.solution), got.solution))
                archive.expanded(number, children, SAMPLES)


def _effect(got: Answer) -> str:
    return f"then {figure_of(got.verdict):.4f}" if got.verdict.valid else "then none"
