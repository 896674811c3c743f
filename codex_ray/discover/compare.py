"""``discover compare``: one page of several searches of a problem."""

from __future__ import annotations

from pathlib import Path

from codex_ray.config import saved
from codex_ray.config.discover import CompareSearches
from codex_ray.config.tree import dotted
from codex_ray.discover.problem import find_problem
from codex_ray.discover.report import progress_card
from codex_ray.discover.solution import NAME, read_solution
from codex_ray.errors import ConfigError
from codex_ray.files import write_text
from codex_ray.runs.state import find_run
from codex_ray.track.environment import masked
from codex_ray.track.metrics import read_run
from codex_ray.track.page import build_page, columns_table, header, section
from codex_ray.track.progress import Progress

WHERE = ("name", "runs", "resume")  # settings that say where a run is, not what


def compare(settings: CompareSearches, progress: Progress | None = None) -> Path:
    """Write the page, print what each found, and return where the page is.

    Raises:
        ConfigError: runs are of different problems.
        CodexRayError: there is no such run, one is no search or damaged, or the page cannot be written.
    """
    folders = [find_run(name, settings.runs) for name in settings.names]
    solutions = [read_solution(folder / NAME) for folder in folders]
    kinds = {str([held["problem"], held["options"]]) for held in solutions}
    if len(kinds) > 1:
        raise ConfigError(
            f"the runs are of different problems ({', '.join(sorted(kinds))}); compare those of one"
        )
    first = solutions[0]
    problem = find_problem(first["problem"], first["language"], first["options"])
    names = [folder.name for folder in folders]
    rows = [[row for row in read_run(folder) if "discover/best" in row] for folder in folders]
    curves = [(name, some) for name, some in zip(names, rows, strict=True) if len(some) > 1]
    table = [
        (
            name,
            f"{held['figure']:.8g}",
            f"{held['rollouts']:,}",
            f"{some[-1]['discover/rollouts'] or 0:,.0f}" if some else "",
        )
        for name, held, some in zip(names, solutions, rows, strict=True)
    ]
    heads = ("run", f"best ({problem.direction})", "found after rollouts", "of")
    body = [
        header("searches", problem.name.replace("_", " "), names),
        section("Search", f'<div class="plots">{progress_card(curves, problem)}</div>' if curves else ""),
        section("What was found", columns_table(heads, table)),
        section("Settings that differ", columns_table(("setting", *names), _differing(folders), words=names)),
    ]
    path = Path(settings.output).expanduser()
    write_text(path, build_page("searches", body))
    with Progress("off") if progress is None else progress as shown:
        shown.table(problem.name, table, heads)
        shown.table("comparison", [("report", str(path.absolute()))])
    return path


def _differing(folders: list[Path]) -> list[tuple[str, ...]]:
    """Return settings that are not the same in all runs, with each run's."""
    settings = []
    for folder in folders:
        config = folder / "config.yaml"
        settings.append(
            {key: masked(str(value)) for key, value in dotted(saved.read(config)).items()}
            if config.exists()
            else {}
        )
    keys = dict.fromkeys(key for one in settings for key in one if key not in WHERE)
    return [
        (key, *(one.get(key, "") for one in settings))
        for key in keys
        if len({one.get(key) for one in settings}) > 1
    ]
