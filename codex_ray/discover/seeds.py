"""What a search begins with: a problem's seeds, graded once for all ranks and starts of a run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from codex_ray.discover.problem import Problem, figure_of
from codex_ray.discover.problems.verdict import Verdict
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.files import write_text


@dataclass(frozen=True)
class Seed:
    """A solution that a search begins with, and its grade."""

    solution: Any
    value: float
    figure: float
    reward: float

    @classmethod
    def graded(cls, problem: Problem, seed: int, count: int) -> list[Seed]:
        """Return a problem's seeds.

        Raises:
            ConfigError: there are none, or its own verifier refuses some.
        """
        solutions = problem.seeds(seed, count)
        verdicts = [problem.verify(one) for one in solutions]
        refused = [verdict.reason for verdict in verdicts if not verdict.valid]
        if not solutions or refused:
            raise ConfigError(
                f"problem {problem.name} gives {len(solutions)} seeds, and its own verifier refuses "
                f"{len(refused)} ({refused[0] if refused else 'none'}); mend its seeds"
            )
        return [
            cls(one, verdict.value, figure_of(verdict), verdict.reward)
            for one, verdict in zip(solutions, verdicts, strict=True)
        ]


def graded_seeds(problem: Problem, seed: int, count: int, path: Path) -> list[Seed]:
    """Return a run's seeds, graded when it began and kept in a file with what a model reads of each.

    A verifier that takes times would give others every time.

    Raises:
        ConfigError: the problem has none, or gives some that its own verifier refuses.
        CodexRayError: the file of those graded before is damaged.
    """
    if path.exists():
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            return [Seed(**{field.name: row[field.name] for field in fields(Seed)}) for row in rows]
        except (ValueError, KeyError, TypeError) as error:
            raise CodexRayError(
                f"{path} is damaged ({error}); begin the run again under another name"
            ) from error
    seeds = Seed.graded(problem, seed, count)
    lines = []
    for one in seeds:
        prompt = problem.prompt(one.solution, Verdict(True, one.reward, one.value, one.figure))
        lines.append(json.dumps({"prompt": prompt, "response": ".", **asdict(one)}))
    write_text(path, "\n".join(lines) + "\n")
    return seeds
