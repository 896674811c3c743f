"""How ranks tell each other about a checkpoint that they write beside training: through files.

The training process group is the loop's own: a collective from another thread would mix with its reductions.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

from codex_ray.errors import CodexRayError
from codex_ray.files import replacing

LOOK_SECONDS = 0.05


class GivenUp(Exception):
    """The save was given up: another rank has said why."""


class Shares:
    """Words of all ranks about one save.

    Args:
        folder: a folder that all ranks see.
        rank: this rank; ``world``: how many there are.
        seconds: longest wait for a word.
        given_up: set when nobody should wait any more.
    """

    def __init__(
        self, folder: Path, rank: int, world: int, seconds: float, given_up: threading.Event
    ) -> None:
        self._folder, self._rank, self._world = folder, rank, world
        self._seconds, self._given_up = seconds, given_up

    def say(self, word: str, value: Any = None) -> None:
        """Tell the others that this rank has come so far."""
        with replacing(self._folder / f"{word}_{self._rank}.json") as path:
            path.write_text(json.dumps(value), encoding="utf-8")

    def hear(self, word: str, ranks: range | None = None, *, at: str = "its disk") -> list[Any]:
        """Wait until ``ranks``, all of them unless given, have said it; returns what they said.

        ``at`` is what they wait for.

        Raises:
            CodexRayError: naming the ranks that have not, after the longest wait.
            GivenUp: somebody gave the save up meanwhile, ``failed``, or took the folder away.
        """
        deadline = time.monotonic() + self._seconds
        paths = {rank: self._folder / f"{word}_{rank}.json" for rank in ranks or range(self._world)}
        while missing := [rank for rank, path in paths.items() if not path.exists()]:
            gone = not self._folder.exists() or any(self._folder.glob("failed_*.json"))
            if self._given_up.wait(LOOK_SECONDS) or gone:
                raise GivenUp
            if time.monotonic() > deadline:
                raise CodexRayError(
                    f"rank {', '.join(map(str, missing))} had not {word} its share of the checkpoint after "
                    f"checkpoints.timeout_seconds={self._seconds:g}; see whether {at} still answers, and "
                    "run it again with resume=auto"
                )
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths.values()]
