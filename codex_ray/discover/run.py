"""The ``discover`` verb: a model trains on a problem while it solves it (TTT-Discover, arXiv 2601.16175)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codex_ray.config.discover import Discover, with_score
from codex_ray.config.finetune import Examples
from codex_ray.corpus.manifest import Manifest
from codex_ray.discover.problem import MINIMISE, Problem, best_known, find_problem
from codex_ray.discover.seeds import graded_seeds
from codex_ray.discover.solution import SolutionFile, certified
from codex_ray.discover.task import Discovering
from codex_ray.track.progress import Progress
from codex_ray.track.run_folder import RunFolder
from codex_ray.train.base import examples_of, place_of, template_of
from codex_ray.train.driver import TrainingResult, opened_run, run_task

LONGEST_PROMPT = 65_536  # tokens, where a model does not say how many it takes


@dataclass(frozen=True)
class Discovery:
    """What a search found: its best solution's figure, the file, and the run that it was found in."""

    figure: float | None
    solution: Path
    training: TrainingResult


def discover(settings: Discover, progress: Progress | None = None) -> Discovery:
    """Search one problem with a model that learns from what it tries.

    Raises:
        ConfigError: the settings or the problem cannot be right.
        CodexRayError: the model, the cluster or the run cannot go on.
        Interrupted: the user stopped it; the last checkpoint is written.
    """
    started = time.time()
    settings = with_score(settings)
    problem = find_problem(settings.problem, settings.language, settings.options)
    with opened_run(settings, "discover", progress) as (run, shown):
        path = run.path / "seeds.jsonl"
        seeds = graded_seeds(problem, settings.seed, settings.search.groups, path)
        manifest = _prompts(settings, run, path, shown)
        found = SolutionFile(run.solution, settings.problem, settings.language, settings.options)
        task = Discovering(settings, manifest.folder, place_of(settings.model), found, seeds)
        training = run_task(task, manifest, run, shown, started)
        held = certified(found.path, problem)
        _show(shown, problem, held, training, found.path)
        return Discovery(held["figure"], found.path, training)


def _prompts(settings: Discover, run: RunFolder, path: Path, shown: Progress) -> Manifest:
    """Make what the model reads of each seed the folder that a training run has its tokenizer from.

    Raises:
        CodexRayError: the model is missing, or too small for the prompts.
    """
    from codex_ray.model.load import load_config, positions_of

    longest = positions_of(load_config(settings.model))
    length = min(longest or LONGEST_PROMPT, LONGEST_PROMPT)
    data = Examples(path=str(path), chat=settings.chat, too_long="fail", validation=0.0)
    return examples_of(
        data,
        template_of(settings.model),
        run.path / "prompts",
        length=length,
        seed=settings.seed,
        progress=shown,
        kind="prompts",
    )


def _show(
    shown: Progress, problem: Problem, held: dict[str, Any], training: TrainingResult, file: Path
) -> None:
    """Print what was found beside what is known."""
    known, figure = best_known(problem), held["figure"]
    rows: list[tuple[str, Any]] = [(f"best found ({problem.direction})", f"{figure:.10g}")]
    if problem.baseline is not None:
        rows.append(("baseline", f"{problem.baseline.figure:.10g} ({problem.baseline.source})"))
    rows += [("published", f"{bound.figure:.10g} ({bound.source})") for bound in problem.bounds]
    if known is not None:
        gap = figure - known if problem.direction == MINIMISE else known - figure
        rows.append(("gap to the best published", f"{gap:.3g}" if gap > 0 else f"{gap:.3g}: better"))
    rows += [
        ("found after", f"{held['rollouts']:,} rollouts, step {held['step']} of {training.step}"),
        ("solution", str(file)),
        ("report", str(training.run / "report.html")),
    ]
    shown.table(problem.name, rows)
