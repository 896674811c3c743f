"""A problem that any command scores: ``problem=command score='python score.py {solution}'``.

The command is the user's own and trusted: it runs on the host, with what the model wrote in a file. If it
runs that, it should do so in a sandbox: ``codex_ray.sandbox``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from codex_ray.discover.problem import MAXIMISE, MINIMISE, Problem, Refused
from codex_ray.discover.problems.blocks import last_block
from codex_ray.discover.problems.verdict import Verdict
from codex_ray.errors import ConfigError, nearest
from codex_ray.sandbox.session import wait_for

PLACE = "{solution}"
_LONGEST_OUTPUT = 2**20
_SHOWN = 200
_END_SECONDS = 10.0


class Command(Problem):
    """The problem.

    The command's last line is the figure, a number, or an object such as ``{"figure": 2.5}`` or
    ``{"valid": false, "reason": "too long"}``. Whatever else it does is a verdict too: a reason why there
    is no figure.

    Args:
        score: the command, with ``{solution}`` for the file that holds a solution.
        task: what the model is told.
        seeds: solutions to start from, as text, or files of them.
        direction: of the figure.
        seconds: longest time of the command.
        suffix: of the solution's file.
        block: whether the solution is the last block of code of an answer; else it is the whole answer.
        name: of the problem.
    """

    def __init__(
        self,
        score: str = "",
        task: str = "Write a better solution.",
        seeds: list[str] | None = None,
        direction: str = MAXIMISE,
        seconds: float = 60.0,
        suffix: str = ".txt",
        block: bool = True,
        name: str = "command",
    ) -> None:
        if PLACE not in score:
            raise ConfigError(
                f"problem=command needs score, a command with {PLACE} in it for the solution's file, "
                f"such as 'python score.py {PLACE}'; it is {score!r}"
            )
        if direction not in (MINIMISE, MAXIMISE):
            raise ConfigError(
                f"options.direction={direction!r} is neither {MINIMISE} nor {MAXIMISE}"
                f"{nearest(direction, (MINIMISE, MAXIMISE))}"
            )
        try:
            self._words = shlex.split(score)
        except ValueError as error:
            raise ConfigError(f"score={score!r} cannot be split into words ({error}); quote it") from error
        self._task, self._seeds, self._seconds = task, list(seeds or []), seconds
        self._suffix, self._block = suffix, block
        self.name, self.direction = name, direction

    def seeds(self, seed: int, count: int) -> list[Any]:
        """Return the texts, or what the files hold, that the user gave.

        Raises:
            ConfigError: there are none.
        """
        if not self._seeds:
            raise ConfigError(
                "problem=command needs options.seeds, one solution or more to start from, as text or as files"
            )
        return [_text_of(one) for one in self._seeds][:count]

    def prompt(self, solution: Any, verdict: Verdict) -> str:
        """Tell the task, and what is to be bettered."""
        return f"{self._task}\n\nTo {self.direction}. Now: {verdict.figure:.10g}.\n```\n{solution}\n```\n"

    def read(self, solution: Any, text: str) -> Any:
        """Take the last block of code, or the whole answer."""
        found = last_block(text) if self._block else text.strip()
        if not found:
            raise Refused("nothing was written")
        return found

    def verify(self, solution: Any) -> Verdict:
        """Run the command on a solution."""
        if not isinstance(solution, str):
            return Verdict.refused(f"a solution is text, not a {type(solution).__name__}")
        with TemporaryDirectory(prefix="codex_ray_score_") as folder:
            path = Path(folder) / f"solution{self._suffix}"
            path.write_text(solution, encoding="utf-8", errors="replace")
            words = [word.replace(PLACE, str(path)) for word in self._words]
            try:
                status, printed = _finished(words, self._seconds)
            except Refused as refused:
                return Verdict.refused(str(refused))
        lines = printed.decode(errors="replace").strip().splitlines()
        last = lines[-1].strip() if lines else ""
        if status:
            return Verdict.refused(
                f"the command ended with status {status}: {last[:_SHOWN] or 'it printed nothing'}"
            )
        return self._graded(last)

    def _graded(self, last: str) -> Verdict:
        try:
            said = json.loads(last)
        except (ValueError, RecursionError):
            return Verdict.refused(
                f"the command's last line is no number: {last[:_SHOWN] or 'it printed nothing'}"
            )
        if isinstance(said, dict):
            if said.get("valid", True) is not True:
                return Verdict.refused(
                    str(said.get("reason", "the command says that it is not valid"))[:_SHOWN]
                )
            said = said.get("figure")
        if isinstance(said, bool) or not isinstance(said, int | float):
            return Verdict.refused(
                f"the command gave a figure that is a {type(said).__name__}: {last[:_SHOWN]}"
            )
        try:
            figure = float(said)
        except OverflowError:
            figure = math.inf
        if not math.isfinite(figure):
            return Verdict.refused(f"the command gave a figure that is not finite: {last[:_SHOWN]}")
        value = figure if self.direction == MAXIMISE else -figure
        return Verdict(valid=True, reward=value, value=value, figure=figure)


def _text_of(seed: str) -> str:
    try:
        path = Path(seed)
        return path.read_text(encoding="utf-8") if path.is_file() else seed
    except (OSError, ValueError):  # too long for a name, or no text
        return seed


def _finished(words: list[str], seconds: float) -> tuple[int, bytes]:
    """Run a command to its end, and end all that it started; return its status and what it printed.

    Raises:
        Refused: it cannot be started, takes too long or prints too much.
    """
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise Refused(f"the command cannot be started: {error}") from None
    assert process.stdout is not None
    deadline, printed = time.monotonic() + seconds, bytearray()
    try:
        with process.stdout as pipe:
            while wait_for([pipe.fileno()], [], deadline - time.monotonic()):
                data = os.read(pipe.fileno(), 2**16)
                printed += data
                if not data:
                    return process.wait(max(0.01, deadline - time.monotonic())), bytes(printed)
                if len(printed) > _LONGEST_OUTPUT:
                    raise Refused(f"the command printed more than {_LONGEST_OUTPUT} bytes")
        raise Refused(f"the command took longer than {seconds:g} s")
    except subprocess.TimeoutExpired:
        raise Refused(f"the command took longer than {seconds:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(_END_SECONDS)
