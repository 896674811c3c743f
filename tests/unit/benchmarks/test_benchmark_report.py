"""Result files of the benchmarks and the pages made of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import report, results
from benchmarks.results import Figure, Result, read_results, write_result
from codex_ray.errors import CodexRayError

FIGURES = {
    "stack_over_bare_loop": Figure(0.97, "ratio", "higher", aim=0.95),
    "first_step_seconds": Figure(31.25, "s", "lower", aim=30.0),
    "loader_tokens_per_second": Figure(2_512_345.6, "tokens/s", "higher"),
    "mfu_base": Figure(None, "share", "higher", aim=0.4, command="python -m benchmarks.mfu"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(results, "commit_name", lambda: "0123456789ab+")
    return tmp_path


def test_a_result_reads_back_as_it_was_written(folder: Path) -> None:
    path = write_result("stack", FIGURES, {"repeats": 3})
    assert path.name == f"stack.{results.machine_name()}.json"
    (read,) = read_results(folder)
    assert (read.benchmark, read.commit, read.figures) == ("stack", "0123456789ab+", FIGURES)
    written = json.loads(path.read_text())
    assert written["repeats"] == 3
    assert set(written["figures"]["first_step_seconds"]) == {"value", "unit", "better", "aim"}


@pytest.mark.parametrize(
    ("value", "better", "aim", "reached"),
    [
        (0.95, "higher", 0.95, True),
        (0.94, "higher", 0.95, False),
        (30.0, "lower", 30.0, True),
        (31.0, "lower", 30.0, False),
        (1.0, "higher", None, None),
    ],
)
def test_an_aim_is_reached_from_the_better_side(
    value: float, better: str, aim: float | None, reached: bool | None
) -> None:
    assert Figure(value, "s", better, aim).reached is reached


def test_impossible_figures_are_refused() -> None:
    with pytest.raises(CodexRayError, match="'higher' or 'lower'"):
        Figure(1.0, "s", "smaller")
    with pytest.raises(CodexRayError, match="name the command"):
        Figure(None, "s", "lower")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"benchmark": "x", "figures": {}}', '{"figures": {"a": {"value": 1, "speed": 2}}}']
)
def test_a_damaged_result_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "broken.cpu-2core.json").write_text(text)
    with pytest.raises(CodexRayError, match=r"broken\.cpu-2core\.json"):
        read_results(tmp_path)


def test_the_page_lists_every_figure_and_what_is_pending() -> None:
    page = report.benchmarks_page([Result("stack", "cpu-2core", "0123456789ab", "2026-11-20", FIGURES)])
    rows = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| ")}
    assert "| 0.97 | ratio | ≥ 0.95 | yes |" in rows["stack_over_bare_loop"]
    assert "| 31.25 | s | ≤ 30 | no |" in rows["first_step_seconds"]
    assert "| 2,512,346 | tokens/s |  |  |" in rows["loader_tokens_per_second"]
    assert rows["mfu_base"] == "| mfu_base | cpu-2core | `python -m benchmarks.mfu` |"
    assert "0123456789ab, 2026-11-20" in page


def test_the_table_of_aims_leaves_out_figures_without_one() -> None:
    table = report.aims_table([Result("stack", "cpu-2core", "0123456789ab", "2026-11-20", FIGURES)])
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        "stack_over_bare_loop",
        "first_step_seconds",
        "mfu_base",
    ]


def test_the_readme_keeps_all_but_the_table() -> None:
    readme = report.ROOT / "README.md"
    text = report.rendered([Result("stack", "cpu-2core", "c", "2026-11-20", FIGURES)])[readme]
    between = re.compile(f"{re.escape(report.START)}.*{re.escape(report.END)}", re.DOTALL)
    assert between.sub("", text) == between.sub("", readme.read_text(encoding="utf-8"))
    assert "stack_over_bare_loop" in text


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("NVIDIA H100 80GB HBM3", "nvidia-h100"),
        ("NVIDIA H200", "nvidia-h200"),
        ("NVIDIA H100 PCIe", "nvidia-h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", "nvidia-a100-sxm4"),
        ("NVIDIA GeForce RTX 4090", "nvidia-rtx-4090"),
    ],
)
def test_a_card_is_named_by_what_it_is(name: str, short: str) -> None:
    assert results.card_name(name) == short
