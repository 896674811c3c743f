"""What judges answers: rewards by name or path, and ``tests``, which runs an answer's code in the sandbox.

A reward by path is somebody's program. It runs in a process of its own, with a deadline.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from codex_ray.config.sandbox import Sandbox
from codex_ray.errors import CodexRayError
from codex_ray.plugins import is_own

if TYPE_CHECKING:
    from codex_ray.evaluate.tasks import Task
    from codex_ray.rollout.rewards import Reward
    from codex_ray.sandbox.testing import Judge

TESTS = "tests"
"""The verifier of programs: rows have ``test`` and ``entry_point``, as HumanEval's do."""

SECONDS = 60.0
"""Longest time that a reward by path may take for one answer, where nobody says another."""


@contextmanager
def open_verifier(
    task: Task, sandbox: Sandbox | None = None, seconds: float = SECONDS, key: str = "verifier_seconds"
) -> Iterator[Reward | None]:
    """Give a task's verifier for the length of the block; None where it has none.

    Args:
        task: the task; ``sandbox``: limits of programs that ``tests`` runs.
        seconds: longest time for one answer, of a verifier by path; ``key``: the setting that says so.

    Raises:
        ConfigError: it cannot be imported.
        CodexRayError: the host cannot hold such programs. The verifier raises it as well, where it fails or
            is late.
    """
    if task.verifier is None:
        yield None
    elif task.verifier == TESTS:
        from codex_ray.sandbox.testing import Judge

        with Judge(sandbox) as judge:
            yield partial(passes, judge)
    else:
        from codex_ray.rollout.apart import Apart
        from codex_ray.rollout.rewards import Rewarded, find_reward

        found = find_reward(task.verifier, f"verifier of task {task.name}")
        if is_own("rewards", task.verifier):
            yield found
            return
        what = f"the verifier {task.verifier} of task {task.name}"
        with Apart(Rewarded(task.verifier), seconds=seconds, what=what, key=key) as scorer:
            yield scorer.reward


def passes(judge: Judge, row: Mapping[str, Any], text: str) -> float:
    """Return 1 where a program passes its row's tests; otherwise 0.

    The program is the prompt and the answer, or the answer alone where it defines the function itself.

    Raises:
        CodexRayError: the row has no tests, or no name of the function that they call.
    """
    for column in ("test", "entry_point"):
        if not isinstance(row.get(column), str):
            raise CodexRayError(
                f"a row has no text under {column!r}, which verifier=tests needs (test: assertions or a "
                "check(candidate); entry_point: the function's name); add it"
            )
    function = str(row["entry_point"])
    program = text if f"def {function}(" in text else f"{row['prompt']}{text}"
    return float(judge.run(program, str(row["test"]), function).ok)
