"""What workers tell the driver besides figures: a line each in the attempt's ``messages.ndjson``.

A folder that all nodes see is already needed for checkpoints; a file in it outlives every process
that may die, and needs no actor that must be kept alive.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from codex_ray.errors import CodexRayError

FILE = "messages.ndjson"


class Messages:
    """Appends messages; several processes may write at once.

    Kinds: ``worker`` (rank, pid, node), ``model`` (parameters), ``note`` (a sentence for the user),
    ``spike`` (text and step, where a run goes back), ``slow`` (rank, seconds, median, step), ``plan``
    (total_steps), ``startup`` (seconds by stage until the first step), ``begin`` (the step that workers begin
    from), ``leaving`` (they end, to go on elsewhere), ``failure`` (ranks, reason, preempted; from Ray Train's
    controller), ``fatal`` (an error that no restart can mend).
    """

    def __init__(self, attempt_folder: Path) -> None:
        self._path = attempt_folder / FILE

    def send(self, kind: str, **content: Any) -> None:
        """Append one message."""
        line = json.dumps({"kind": kind, "time": time.time(), **content}, ensure_ascii=False) + "\n"
        # One write of an appended line is not interleaved with those of other processes.
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def note(self, text: str) -> None:
        """Tell the user one sentence."""
        self.send("note", text=text)

    def fatal(self, error: CodexRayError) -> None:
        """Tell the driver to end the run with this error instead of restarting workers."""
        self.send("fatal", text=str(error), exit_code=error.exit_code)

    def has_fatal(self) -> bool:
        """Whether a worker has ended this attempt for good."""
        return any(message["kind"] == "fatal" for message in MessageReader(self._path.parent).new())


class MessageReader:
    """Reads messages as they come."""

    def __init__(self, attempt_folder: Path) -> None:
        self._path = attempt_folder / FILE
        self._offset = 0

    def new(self) -> list[dict[str, Any]]:
        """Return complete messages that were not returned before."""
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._offset)
                text = stream.read()
        except FileNotFoundError:
            return []
        complete = text[: text.rfind(b"\n") + 1]
        self._offset += len(complete)
        return [json.loads(line) for line in complete.splitlines()]
