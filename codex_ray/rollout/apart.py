"""A scorer in a process of its own, where no pool scores: it is asked with a deadline, and ended after it.

    with Apart(Rewarded("mine.judge"), seconds=60.0, what="the verifier mine.judge", key="KEY") as scorer:
        scorer.reward({"prompt": "2+2=", "response": "4"}, "5")

What judges is somebody's program, which may fail in any way, or never answer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from codex_ray.errors import CodexRayError
from codex_ray.rollout.environment import EnvironmentBuilder
from codex_ray.rollout.episode import Episode, Failure, Outcome, Prompt, Turn
from codex_ray.rollout.scorer import ScoringActor

if TYPE_CHECKING:
    from codex_ray.rollout.request import Completion

START_SECONDS = 300.0  # longest wait until it can judge: a reward model has to be read
END_SECONDS = 5.0


class Apart:
    """Judges episodes as a scoring actor does; a context, at whose end its process is gone.

    Args:
        build: makes the environment, in the process.
        seconds: longest time for one score.
        what: judges, in errors; ``key``: the setting that ``seconds`` come from.
    """

    def __init__(self, build: EnvironmentBuilder, *, seconds: float, what: str, key: str) -> None:
        self._build, self._seconds, self._what, self._key = build, seconds, what, key
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def reward(self, row: Mapping[str, Any], text: str) -> float:
        """Return the reward of a text, see :meth:`judge`; a :data:`codex_ray.rollout.rewards.Reward`."""
        turn = Turn(None, [], [], text, text, [], [], "stop")
        return self.judge(Episode(0, 0, 0, 0, Prompt((), row), (turn,)))

    def judge(self, episode: Episode) -> float:
        """Return the reward of an episode that has ended.

        Raises:
            CodexRayError: it raised, gave no finite number, did not answer in time, or its process died.
        """
        if self._process is None:
            self._start()
        answer = self._ask((episode, False), self._seconds, f" ({self._key})")
        if isinstance(answer, Failure):
            raise CodexRayError(f"{self._what} failed on an answer ({answer.reason}); mend it")
        reward: float = answer.reward
        return reward

    def _start(self) -> None:
        self._pipe, theirs = Pipe()
        number = theirs.fileno()
        words = [sys.executable, "-m", "codex_ray.rollout.apart", str(number)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            words, pass_fds=(number,), stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
        theirs.close()
        answer = self._ask(self._build, START_SECONDS, " to begin with")
        if isinstance(answer, Failure):
            self._end()
            raise CodexRayError(f"{self._what} cannot be made ({answer.reason}); mend it")

    def _ask(self, message: Any, seconds: float, why: str) -> Any:
        try:
            self._pipe.send(message)
            if self._pipe.poll(seconds):
                return self._pipe.recv()
            reason = f"did not answer within {seconds:g} s{why}; mend it, or give it longer"
        except (EOFError, OSError):
            reason = "ended its process; look for os.exit, or for memory that ran out, and mend it"
        self._end()
        raise CodexRayError(f"{self._what} {reason}")

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(END_SECONDS)
            self._pipe.close()
            self._process = None


def turn_of(done: Completion) -> Turn:
    """Return what a model wrote as the one turn of an episode."""
    written = done.text
    reason = done.finish_reason
    return Turn(None, [], done.ids, written, written, done.logprobs, done.sampling_logprobs, reason)


def main(number: int) -> None:
    """Judge what comes through the pipe of that number, until nobody is there."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    pipe = Connection(number)
    try:
        actor = ScoringActor(pipe.recv())
        pipe.send(_started(actor))
        while True:
            pipe.send(actor.judge(*pipe.recv()))
    except (EOFError, OSError):
        return


def _started(actor: ScoringActor) -> Outcome | Failure:
    try:
        actor.start()
    except Exception as error:  # whatever making it raises is told in words
        return Failure("start", f"{type(error).__name__}: {error}")
    return Outcome()


def _end_with(parent: int) -> None:
    """End this process where its parent is killed while a judge is at work."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
