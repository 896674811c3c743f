"""pass@k of programs, judged in the sandbox."""

from __future__ import annotations

import pytest

from codex_ray.config.evaluate import Answering
from codex_ray.config.sandbox import Sandbox
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.evaluate import Example, Task, score

ROW = {"test": "def check(candidate):\n    assert candidate(2) == 4\n", "entry_point": "double"}


def task(row: dict[str, str], verifier: str = "tests") -> Task:
    example = Example("1", "def double(x):\n", (), row)
    answering = Answering(samples=4)
    return Task("programs", (example,), answering, ("pass@1", "pass@2", "verified"), verifier=verifier)


def test_programs_that_pass_are_counted_and_those_that_cheat_or_hang_are_not() -> None:
    texts = [
        "    return 2 * x\n",
        "def double(x):\n    return x + x\n",  # a whole program
        "    import os\n    os._exit(0)\n",
        "    while True:\n        pass\n",
    ]
    scored = score(task(ROW), {"1": texts}, sandbox=Sandbox(wall_seconds=5.0, cpu_seconds=1))
    assert scored.answers[0].verdicts == (1.0, 1.0, 0.0, 0.0)
    assert scored.figures["pass@1"].value == 0.5
    assert scored.figures["pass@2"].value == pytest.approx(1 - 1 / 6)


def test_rows_without_tests_and_unknown_verifiers_are_named() -> None:
    with pytest.raises(CodexRayError, match="no text under 'entry_point', which verifier=tests needs"):
        score(task({"test": "assert True"}), {"1": ["pass"] * 4})
    with pytest.raises(ConfigError, match=r"verifier of task programs=exakt is none of .*exact"):
        score(task(ROW, "exakt"), {"1": ["pass"] * 4})
