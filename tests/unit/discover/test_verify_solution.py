"""``discover verify``: a solution's file alone, a stranger's too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codex_ray.cli import main
from codex_ray.config.discover import VerifySolution
from codex_ray.discover.problem import find_problem
from codex_ray.discover.problems.denoising import NEIGHBOURS
from codex_ray.discover.verify_solution import verify
from codex_ray.errors import CodexRayError, ConfigError


def write(folder: Path, **held: Any) -> str:
    path = folder / "solution.json"
    path.write_text(
        json.dumps({"format": 1, "problem": "erdos_min_overlap", "language": None, "options": {}, **held})
    )
    return str(path)


def test_a_solution_is_graded_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, solution=[0, 1, 1, 0], figure=0.5)
    assert main(["discover", "verify", path]) == 0
    printed = capsys.readouterr().out
    assert (
        "figure, computed again" in printed
        and "0.5" in printed
        and "1/2" in printed
        and "Haugland" in printed
    )
    assert verify(VerifySolution(path)).certificate["bound"] == "1/2"
    by_hand = tmp_path / "by_hand.json"
    by_hand.write_text('{"format": 1, "problem": "erdos_min_overlap", "solution": [0.5, 0.5]}')
    assert verify(VerifySolution(str(by_hand))).figure == 0.5


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        ({"solution": [0.5, 0.6]}, "holds no solution of erdos_min_overlap: the integral is 1.1"),
        ({"solution": "x"}, "a list of numbers is wanted"),
        ({"solution": None}, "a list of numbers is wanted"),
        ({"solution": [float("nan")]}, "not finite"),
        ({"solution": [0.5, 0.5], "figure": 0.38}, "says 0.38 and is worth 0.5"),
        ({"solution": [0.5, 0.5], "figure": "best"}, "says 'best' and is worth 0.5"),
        ({"solution": [0.5], "problem": 7}, "does not name its problem"),
        ({"solution": [0.5], "options": [1]}, "does not name its problem"),
        ({"solution": [0.5], "options": {"hops": 1}}, "does not take options"),
        ({"solution": [0.5], "language": "french"}, "cannot be written in language=french"),
        ({"solution": [0.5], "format": 2}, "is no solution of format 1"),
        ({"solution": [0.5], "problem": "erdos"}, "runs code of your own"),
    ],
)
def test_what_does_not_hold(tmp_path: Path, held: dict[str, Any], reason: str) -> None:
    with pytest.raises(CodexRayError, match=reason):
        verify(VerifySolution(write(tmp_path, **held)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\xff\xfe",
        b"[]",
        b"7",
        b"{}",
        b"[" * 200_000,
        b'{"format": 1}',
        b'{"format": 1, "solution": ',
    ],
)
def test_a_file_that_is_none(tmp_path: Path, data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    for wrong in (path, tmp_path, tmp_path / "missing"):
        assert main(["discover", "verify", str(wrong)]) == 1
        said = capsys.readouterr().err.strip()
        assert str(wrong) in said and "Traceback" not in said and len(said.splitlines()) <= 3


def test_a_file_cannot_choose_what_runs_here(tmp_path: Path) -> None:
    """Neither a callable by its path, nor a command, nor weaker settings of the sandbox."""
    canary = tmp_path / "canary"
    words = ["touch", str(canary)]
    for name, options in (
        ("subprocess.check_call", {"args": words}),
        ("subprocess.Popen", {"args": words}),
        ("command", {"score": f"touch {canary} {{solution}}"}),
        ("tests.unit.discover.nothing.Such", {}),
    ):
        path = write(tmp_path, problem=name, options=options, solution="x")
        with pytest.raises(ConfigError, match="runs code of your own"):
            verify(VerifySolution(path))
        # Named by the user too, its options are still the user's to give, and it has to be a problem.
        with pytest.raises(CodexRayError):
            verify(VerifySolution(path, problem=name))
        if name.startswith("subprocess"):
            with pytest.raises(ConfigError, match=r"no codex_ray\.discover\.problem\.Problem"):
                find_problem(name, None, options)
    assert not canary.exists()
    loose = {"sandbox": {"uncontained": ["files"], "modules": ["torch"]}, "sets": 1}
    path = write(tmp_path, problem="denoising", options=loose, solution="import torch\n" + NEIGHBOURS)
    with pytest.raises(CodexRayError, match="No module named 'torch'"):
        verify(VerifySolution(path))


def test_a_command_is_the_users(tmp_path: Path) -> None:
    path = write(tmp_path, problem="command", options={"score": "rm {solution}"}, solution="abc\n7")
    assert verify(VerifySolution(path, problem="command", score="cat {solution}")).figure == 7.0
    assert main(["discover", "verify", path, "problem=command", "score=cat {solution}"]) == 0
    with pytest.raises(ConfigError, match="and problem=deliveries was given"):
        verify(VerifySolution(path, problem="deliveries"))
