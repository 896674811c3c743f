"""``problem=command``: whatever a scoring command does is a clear verdict."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from codex_ray.discover.problem import answer, find_problem
from codex_ray.discover.problems.command import Command
from codex_ray.errors import ConfigError


def command(folder: Path, source: str, **options: Any) -> Command:
    script = folder / "score it.py"
    script.write_text("import sys, json, time, os\ntext = open(sys.argv[1]).read()\n" + source)
    return Command(f"{sys.executable} '{script}' {{solution}}", seeds=["1\n"], **options)


def test_a_figure_is_a_verdict(tmp_path: Path) -> None:
    problem = command(tmp_path, "print('scored'); print(len(text))", direction="minimise", task="Be brief.")
    found = problem.verify("abc")
    assert (found.valid, found.figure, found.value, found.reward) == (True, 3.0, -3.0, -3.0)
    seed = problem.seeds(0, 8)
    assert seed == ["1\n"] and "Be brief." in problem.prompt(seed[0], problem.verify(seed[0]))
    got = answer(problem, seed[0], "So:\n```\n12345\n```\n")
    assert (got.solution, got.verdict.figure) == ("12345\n", 6.0)
    assert not answer(problem, seed[0], "no block").verdict.valid
    whole = command(tmp_path, "print(len(text))", block=False)
    assert answer(whole, seed[0], " all of it ").verdict.figure == 9.0
    assert not answer(whole, seed[0], "  ").verdict.valid


def test_seeds_may_be_files(tmp_path: Path) -> None:
    (tmp_path / "seed.txt").write_text("from a file")
    problem = Command("x {solution}", seeds=[str(tmp_path / "seed.txt"), "text", "x" * 5000])
    assert problem.seeds(0, 8) == ["from a file", "text", "x" * 5000]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ValueError('bad')", "ended with status 1: ValueError: bad"),
        ("sys.exit(3)", "ended with status 3: it printed nothing"),
        ("os.kill(os.getpid(), 9)", "ended with status -9"),
        ("print('hello')", "last line is no number: hello"),
        ("pass", "last line is no number: it printed nothing"),
        ("print('nan')", "last line is no number: nan"),
        ("print('NaN')", "not finite: NaN"),
        ("print('Infinity')", "not finite"),
        ("print('-Infinity')", "not finite"),
        ("print('1e999')", "not finite"),
        ("print('9' * 4000)", "not finite"),
        ("print('9' * 5000)", "is no number"),
        ("print('[1]')", "a figure that is a list"),
        ("print('true')", "a figure that is a bool"),
        ("print('null')", "a figure that is a NoneType"),
        ("print('\"7\"')", "a figure that is a str"),
        ("print('[' * 10**5)", "is no number"),
        ("print('{}')", "a figure that is a NoneType"),
        ("print(json.dumps({'valid': False, 'reason': 'too long'}))", "^too long$"),
        ("print(json.dumps({'valid': False}))", "not valid"),
        ("print(json.dumps({'valid': 'yes', 'figure': 1}))", "not valid"),
        ("print(json.dumps({'figure': 'x'}))", "a figure that is a str"),
        ("sys.stdout.buffer.write(bytes(range(256)) * 3)", "is no number"),
        ("while True: print('x' * 1000)", "printed more than 1048576 bytes"),
        ("time.sleep(100)", "took longer than 1 s"),
        ("sys.stdout.close(); os.close(1); os.close(2); time.sleep(100)", "took longer than 1 s"),
    ],
)
def test_whatever_it_does(tmp_path: Path, source: str, reason: str) -> None:
    found = command(tmp_path, source, seconds=1.0 if "took" in reason else 30.0).verify("solution")
    assert not found.valid and found.reward == 0.0 and re.search(reason, found.reason), found.reason


def test_nothing_of_it_is_left(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    source = (
        "if os.fork() == 0:\n"
        f"    open({str(note)!r}, 'w').write(str(os.getpid())); os.close(1); os.close(2); time.sleep(100)\n"
        "time.sleep(0.5); print(5)"
    )
    assert command(tmp_path, source).verify("x").figure == 5.0
    deadline = time.monotonic() + 10
    while psutil.pid_exists(int(note.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(int(note.read_text()))


def test_what_is_no_command(tmp_path: Path) -> None:
    assert "cannot be started" in Command("/nowhere/score {solution}").verify("x").reason
    assert not Command("x {solution}").verify(["not text"]).valid
    for options, reason in (
        ({}, "needs score"),
        ({"score": "python score.py"}, r"\{solution\} in it"),
        ({"score": "x '{solution}"}, "cannot be split"),
        ({"score": "x {solution}", "direction": "minimize"}, "did you mean 'minimise'|neither minimise"),
        ({"score": "x {solution}", "speed": 1}, "does not take options"),
    ):
        with pytest.raises(ConfigError, match=reason):
            find_problem("command", None, options)
    with pytest.raises(ConfigError, match=r"needs options\.seeds"):
        Command("x {solution}").seeds(0, 1)
