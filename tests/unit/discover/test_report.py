"""What a report says of a search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codex_ray.config.discover import CompareSearches
from codex_ray.discover.compare import compare
from codex_ray.discover.problem import find_problem
from codex_ray.discover.report import sections
from codex_ray.discover.solution import SolutionFile
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.track.report import write_report


def searched(folder: Path, problem: str, rows: int = 4) -> Path:
    (folder / "attempts").mkdir(parents=True)
    made = find_problem(problem, None, {})
    start, best = made.seeds(1, 2)
    seed: dict[str, Any] = {"number": 0, "solution": start, "figure": 0.5, "text": "", "step": 0}
    gone = {"number": 3}
    found = {
        "value": -0.4,
        "figure": 0.4,
        "solution": best,
        "text": "noise1 <b>project0",
        "step": 2,
        "rollouts": 9,
    }
    tree = [[0, None, 0.5, 0], [1, None, 0.6, 0], [2, 0, 0.45, 1], [5, 3, 0.4, 2]]  # 3 is gone
    SolutionFile(folder / "solution.json", problem, None).write(
        {**found, "lineage": [seed, gone], "tree": tree}
    )
    lines = []
    for step in range(1, rows + 1):
        quartiles = {f"discover/reward_{name}": step / 9 for name in ("min", "q1", "median", "q3", "max")}
        own = {"discover/best": 0.5 - step / 50, "discover/rollouts": step * 8.0, "discover/valid_share": 0.4}
        lines.append(json.dumps({"step": step, "loss": 1.0, "entropy": 2.0, **own, **quartiles}))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "config.yaml").write_text(f"problem: {problem}\nseed: {rows}\n")
    return folder


@pytest.mark.parametrize("problem", ["erdos_min_overlap", "circle_packing_26", "low_autocorrelation"])
def test_a_search_is_shown_with_bounds_lineage_and_drawing(tmp_path: Path, problem: str) -> None:
    page = write_report(searched(tmp_path / "run", problem), sections).read_text()
    for told in (
        "Best so far",
        "Rewards",
        "Validity and policy",
        "Lineage",
        "no longer kept",
        "4 solutions and",
    ):
        assert told in page
    assert "noise1 &lt;b&gt;project0" in page and "<b>project0" not in page
    assert ("Best solution" in page) == (problem != "low_autocorrelation")
    if problem == "erdos_min_overlap":
        assert "TTT-Discover 2026, 600 steps" in page


def test_a_run_that_is_no_search_says_nothing_of_one(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    assert "Lineage" not in write_report(tmp_path, sections).read_text()


def test_a_damaged_solution_is_an_error_of_the_report(tmp_path: Path) -> None:
    (searched(tmp_path / "run", "erdos_min_overlap") / "solution.json").write_text("{")
    with pytest.raises(CodexRayError, match=r"solution\.json"):
        write_report(tmp_path / "run", sections)


def test_searches_of_one_problem_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        str(searched(tmp_path / name, "erdos_min_overlap", rows)) for name, rows in (("one", 3), ("two", 5))
    ]
    page = compare(CompareSearches(runs, output=str(tmp_path / "page.html"))).read_text()
    assert "one" in page and "seed" in page and "<svg" in page
    assert "0.4" in capsys.readouterr().out
    other = str(searched(tmp_path / "three", "circle_packing_26"))
    with pytest.raises(ConfigError, match="different problems"):
        compare(CompareSearches([runs[0], other], output=str(tmp_path / "page.html")))
