"""``discover ablation``: the same search in several ways, with equal rollouts, over a grid and seeds.

Every run is a folder of its own; one that has ended is not run again. First each arm has every cell of the
grid with some seeds, then its best cell with all of them; seed by seed, so what there is compares.
Runs of one seed begin with the same solutions, so that arms are compared pair by pair.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from codex_ray.cluster.session import open_session
from codex_ray.config.discover import ARMS, Ablation, Discover, with_score
from codex_ray.discover.problem import MINIMISE, Problem, find_problem
from codex_ray.discover.run import discover
from codex_ray.errors import CodexRayError, Interrupted
from codex_ray.files import read_json, write_json, write_text
from codex_ray.track.page import build_page, columns_table, header, section
from codex_ray.track.progress import Progress, open_progress

RESULTS = "results.json"


@dataclass(frozen=True)
class Cell:
    """One arm at one point of the grid."""

    arm: str
    learning_rate: float
    shaping: float

    def name(self, seed: int) -> str:
        """Name of its run with a seed."""
        return f"{self.arm}_lr{self.learning_rate:g}_l{self.shaping:g}_s{seed}"


@dataclass(frozen=True)
class Outcome:
    """What a run found, with how many rollouts, and how many of them were solutions in its last step."""

    best: float
    rollouts: float
    valid_share: float


@dataclass(frozen=True)
class Comparison:
    """The first arm against another, pair by pair; p of two-sided tests, None where all pairs are equal."""

    arm: str
    pairs: int
    mean_difference: float
    wilcoxon_p: float | None
    mann_whitney_p: float


def ablation(settings: Ablation, progress: Progress | None = None) -> Path:
    """Run what is missing and return the file of results.

    Raises:
        ConfigError: the settings cannot be right.
        CodexRayError: a run could not go on; those before it are kept.
        Interrupted: the user stopped it.
    """
    folder = Path(settings.runs) / (settings.name or "ablation")
    settings = with_score(settings)
    problem = find_problem(settings.problem, settings.language, settings.options)
    done: dict[Cell, dict[int, Outcome]] = {}
    cells = cells_of(settings)
    with (
        open_progress(progress, settings.track.progress) as shown,
        open_session(settings.cluster, more_cpus=settings.rollout.cpus(scored=True)),
    ):
        total = len(cells) * settings.grid_seeds + len(settings.arms) * (settings.seeds - settings.grid_seeds)
        with _said_to_go_on(done, total), shown.stage("ablation", total=total, unit="runs"):
            for number in range(settings.grid_seeds):
                for cell in cells:
                    _run(settings, folder, cell, number, done, shown)
                _write(folder, settings, problem, done, None)
            chosen = best_cells(done, settings.arms, problem).values()
            for number in range(settings.grid_seeds, settings.seeds):
                for cell in chosen:
                    _run(settings, folder, cell, number, done, shown)
                _write(folder, settings, problem, done, None)
        direct = problem.direct()
        for title, rows, heads in _write(folder, settings, problem, done, direct):
            shown.table(title, rows, heads)
        if direct is not None:
            shown.table("without a model", [(direct[1], f"{direct[0]:.8g}")])
        report = str((folder / "report.html").absolute())
        shown.table("results", [("file", str((folder / RESULTS).absolute())), ("report", report)])
    return folder / RESULTS


@contextmanager
def _said_to_go_on(done: Mapping[Cell, Mapping[int, Outcome]], total: int) -> Iterator[None]:
    """Tell a user who stops an ablation how it goes on."""
    try:
        yield
    except (KeyboardInterrupt, Interrupted) as error:
        ended = sum(map(len, done.values()))
        raise Interrupted(
            f"stopped after {ended} of {total} runs; run the same command again to go on"
        ) from error


def cells_of(settings: Ablation) -> list[Cell]:
    """Return the grid; an arm that trains nothing has one cell, for rates and shaping change nothing."""
    cells = []
    for arm in settings.arms:
        untrained = ARMS[arm][1] == "none"
        for rate in settings.learning_rates[: 1 if untrained else None]:
            for shaping in settings.shapings[: 1 if untrained else None]:
                cells.append(Cell(arm, rate, shaping))
    return cells


def _run(
    settings: Ablation,
    folder: Path,
    cell: Cell,
    number: int,
    done: dict[Cell, dict[int, Outcome]],
    shown: Progress,
) -> None:
    """Run a cell with a seed, unless that was done, and take note of what it found."""
    seed = settings.seed + number
    path = folder / cell.name(seed)
    if not (path / "model").is_dir():
        select, objective = ARMS[cell.arm]
        common = {field.name: getattr(settings, field.name) for field in fields(Discover)}
        one = replace(
            Discover(**common),
            name=cell.name(seed),
            runs=str(folder),
            resume="auto",
            seed=seed,
            search=replace(settings.search, select=select),
            learn=replace(settings.learn, objective=objective, shaping=cell.shaping),
            optimizer=replace(settings.optimizer, learning_rate=cell.learning_rate),
        )
        if not discover(one, Progress("off", output=io.StringIO())).training.completed:
            raise CodexRayError(f"run {path} was stopped; run the ablation again to go on with it")
    summary = read_json(path / "summary.json", "the summary")
    names = ("discover/best", "discover/rollouts", "discover/valid_share")
    done.setdefault(cell, {})[seed] = Outcome(*(float(summary[name]) for name in names))
    shown.advance(1, arm=cell.arm, best=done[cell][seed].best)


def best_cells(
    done: Mapping[Cell, Mapping[int, Outcome]], arms: Sequence[str], problem: Problem
) -> dict[str, Cell]:
    """Return each arm's cell of the best mean over the seeds that all its cells have."""
    sign = 1 if problem.direction == MINIMISE else -1
    chosen = {}
    for arm in arms:
        own = {cell: outcomes for cell, outcomes in done.items() if cell.arm == arm}
        common = set.intersection(*(set(outcomes) for outcomes in own.values()))
        means = {
            cell: statistics.mean(sign * outcomes[seed].best for seed in common)
            for cell, outcomes in own.items()
        }
        chosen[arm] = min(means, key=lambda cell: means[cell])
    return chosen


def comparisons(done: Mapping[Cell, Mapping[int, Outcome]], chosen: Mapping[str, Cell]) -> list[Comparison]:
    """Compare the first arm's best cell with each other arm's, over the seeds that both have."""
    from scipy.stats import mannwhitneyu, wilcoxon  # type: ignore[import-untyped]

    arms = list(chosen)
    found = []
    for arm in arms[1:]:
        first, other = done[chosen[arms[0]]], done[chosen[arm]]
        seeds = sorted(set(first) & set(other))
        ours, theirs = [first[seed].best for seed in seeds], [other[seed].best for seed in seeds]
        differences = [one - two for one, two in zip(ours, theirs, strict=True)]
        paired = float(wilcoxon(differences).pvalue) if any(differences) else None
        apart = float(mannwhitneyu(ours, theirs).pvalue)
        found.append(Comparison(arm, len(seeds), statistics.mean(differences), paired, apart))
    return found


def _write(
    folder: Path,
    settings: Ablation,
    problem: Problem,
    done: Mapping[Cell, Mapping[int, Outcome]],
    direct: tuple[float, str] | None,
) -> list[tuple[str, list[tuple[str, ...]], tuple[str, ...]]]:
    """Write results.json and report.html of what there is; returns tables: title, rows and heads."""
    chosen = best_cells(done, settings.arms, problem)
    compared = comparisons(done, chosen)
    write_json(
        folder / RESULTS,
        {
            "problem": settings.problem,
            "options": settings.options,
            "direction": problem.direction,
            "direct": direct,
            "grid": [
                {**asdict(cell), "outcomes": {str(seed): asdict(one) for seed, one in outcomes.items()}}
                for cell, outcomes in done.items()
            ],
            "best_cells": {arm: asdict(cell) for arm, cell in chosen.items()},
            "comparisons": [asdict(one) for one in compared],
        },
    )
    heads = ("arm", "seeds", f"best ({problem.direction})", "sd", "valid", "rollouts", "rate", "shaping")
    best = [_line(cell, done[cell]) for cell in chosen.values()]
    grid = [_line(cell, outcomes) for cell, outcomes in done.items()]
    tested: list[tuple[str, ...]] = [
        (
            f"{settings.arms[0]} - {one.arm}",
            f"{one.pairs}",
            f"{one.mean_difference:+.3g}",
            "-" if one.wilcoxon_p is None else f"{one.wilcoxon_p:.3g}",
            f"{one.mann_whitney_p:.3g}",
        )
        for one in compared
    ]
    test_heads = ("difference", "pairs", "mean", "Wilcoxon p", "Mann-Whitney p")
    told = "" if direct is None else f"{direct[1]}: {direct[0]:.8g}, with no model at all."
    body = [
        header("ablation", problem.name.replace("_", " "), settings.arms),
        section("Best cells", columns_table(heads, best), told),
        section("Paired tests", columns_table(test_heads, tested)),
        section("The whole grid", columns_table(heads, grid)),
    ]
    write_text(folder / "report.html", build_page("ablation", body))
    return [(problem.name, best, heads), ("paired tests", tested, test_heads)]


def _line(cell: Cell, outcomes: Mapping[int, Outcome]) -> tuple[str, ...]:
    best = [one.best for one in outcomes.values()]
    spread = statistics.stdev(best) if len(best) > 1 else 0.0
    return (
        cell.arm,
        f"{len(best)}",
        f"{statistics.mean(best):.6f}",
        f"{spread:.6f}",
        f"{statistics.mean(one.valid_share for one in outcomes.values()):.0%}",
        f"{statistics.mean(one.rollouts for one in outcomes.values()):,.0f}",
        f"{cell.learning_rate:g}",
        f"{cell.shaping:g}",
    )
