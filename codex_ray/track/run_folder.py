"""The run folder: where everything about one run lies, and who may write there.

    runs/<name>/config.yaml, environment.json, metrics.jsonl, summary.json,
                errors.ndjson, first_error.txt, checkpoints/, model/, report.html, loss.png,
                attempts/N/ (one per start: logs of each role and rank, spans, load)

One process at a time drives a run: it holds a lock that goes with the process however it ends.
Workers on any node get a pickled copy, which holds paths only.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
import traceback
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.files import folder_lock, unwritable
from codex_ray.track.asking import question_of, remedy_of, without_secrets

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder:
    """Absolute paths of one run; open it with :meth:`open`, preferably in a ``with`` block.

    Attributes:
        path: the run folder.
        attempt: number of this start, from 1.
        resumed: whether the folder held an earlier attempt.
    """

    path: Path
    attempt: int
    resumed: bool = False
    _lock: ExitStack | None = field(default=None, repr=False, compare=False)

    @classmethod
    def open(cls, runs: Path | str, name: str | None, verb: str, resume: str = "never") -> RunFolder:
        """Make or continue ``runs/<name>`` and hold it until :meth:`close`, or this process's end.

        Args:
            runs: folder that holds run folders; made where it is missing.
            name: the run's name; None makes ``verb-YYYYMMDD-HHMMSS-xxxx``.
            verb: the stage, for the made name.
            resume: ``never`` refuses a folder in use before, ``auto`` continues it or starts,
                ``must`` refuses to start anew.

        Raises:
            ConfigError: the name is not a plain folder name, or ``must`` has no name.
            CodexRayError: the policy refuses the folder, or another process holds it.
        """
        if name is None and resume == "must":
            raise ConfigError("resume=must continues a run that is named; give name=NAME")
        name = name or f"{verb}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        if name.startswith(".") or any(sign in name for sign in "/\\\0"):
            raise ConfigError(
                f"run name {name!r} must be a plain folder name; the folder above is the setting `runs`"
            )
        path = (Path(runs).expanduser() / name).absolute()
        resumed = _apply_policy(path, resume)
        lock = ExitStack()
        lock.enter_context(folder_lock(path, "run folder"))
        try:
            folder = cls(path, 1 + _last_attempt(path), resumed, lock)
            folder._start_attempt()
        except BaseException:
            lock.close()
            raise
        return folder

    def close(self) -> None:
        """Let another process have the folder."""
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return (RunFolder, (self.path, self.attempt, self.resumed))

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def config(self) -> Path:
        """The resolved settings, as YAML that reruns the run."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Packages, commit, hardware and seeds."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """One JSON line per optimizer step."""
        return self.path / "metrics.jsonl"

    @property
    def errors(self) -> Path:
        """Every recorded error of every attempt, one JSON line each."""
        return self.path / "errors.ndjson"

    @property
    def first_error(self) -> Path:
        """The error that came first in the newest attempt, for people."""
        return self.path / "first_error.txt"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoint folders."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The final model folder."""
        return self.path / "model"

    @property
    def validation(self) -> Path:
        """Validations that came after their steps' lines, one JSON line each."""
        return self.path / "validation.jsonl"

    @property
    def evaluation(self) -> Path:
        """What the tasks that a run follows came to, one JSON line for each evaluation."""
        return self.path / "evaluation.jsonl"

    @property
    def samples(self) -> Path:
        """What the model wrote while it trained, one JSON line each."""
        return self.path / "samples.jsonl"

    @property
    def solution(self) -> Path:
        """The best solution of a search."""
        return self.path / "solution.json"

    @property
    def report(self) -> Path:
        """The report, one file that opens anywhere."""
        return self.path / "report.html"

    @property
    def summary(self) -> Path:
        """The closing table, as flat names and numbers."""
        return self.path / "summary.json"

    @property
    def stop(self) -> Path:
        """A file whose presence asks the run to stop cleanly after the current step."""
        return self.path / "stop"

    @property
    def attempt_folder(self) -> Path:
        """Logs of this start."""
        return self.path / "attempts" / str(self.attempt)

    @property
    def outcome(self) -> Path:
        """How this start ended; missing while it runs, and where it was killed."""
        return self.attempt_folder / "outcome.json"

    def log(self, role: str, rank: int) -> Path:
        """Return the log file of one process of this attempt."""
        return self.attempt_folder / f"{role}_{rank}.log"

    def spans(self, rank: int) -> Path:
        """Return the file of one rank's spans of this attempt."""
        return self.attempt_folder / f"spans_{rank}.jsonl"

    def system(self, node: str) -> Path:
        """Return the file of one node's load in this attempt."""
        return self.attempt_folder / f"system_{node.replace(':', '_')}.jsonl"

    def record_error(self, role: str, rank: int, step: int | None, phase: str, error: BaseException) -> None:
        """Append ``error`` to errors.ndjson, and to first_error.txt if it is this attempt's first.

        It may be called from several processes at once. A failure to write is logged, not raised,
        so that it never hides the error it was asked to record.
        """
        where = {"role": role, "rank": rank, "step": step, "phase": phase}
        text = without_secrets("".join(traceback.format_exception(error)))
        record: dict[str, Any] = {
            "time": time.time(),
            "attempt": self.attempt,
            **where,
            "error": type(error).__name__,
            "message": without_secrets(str(error)),
            "traceback": text,
            "remedy": remedy_of(error),
        }
        record["question"] = question_of(record)
        place = ", ".join(f"{key} {value}" for key, value in where.items() if value is not None)
        try:
            # One write of an appended line is not interleaved with those of other processes.
            _write(self.errors, os.O_APPEND, json.dumps(record, ensure_ascii=False) + "\n")
            _write(self.first_error, os.O_EXCL, f"attempt {self.attempt}, {place}\n\n{text}")
        except FileExistsError:
            pass  # another error was first
        except OSError as problem:
            _LOG.warning("the error of %s could not be recorded in %s (%s)", place, self.errors, problem)

    def first_error_line(self) -> str | None:
        """Say in one line where the attempt's first error was and what it was; None without one."""
        if not self.first_error.exists():
            return None
        lines = self.first_error.read_text(encoding="utf-8").strip().splitlines()
        return f"{lines[0]}: {lines[-1]}"

    def superseded(self) -> bool:
        """Whether the run has been started again since: what this start still does would be in its way."""
        return (self.path / "attempts" / str(self.attempt + 1)).exists()

    def _start_attempt(self) -> None:
        try:
            if self.attempt > 1 and self.first_error.exists():
                self.first_error.rename(
                    self.path / "attempts" / str(self.attempt - 1) / self.first_error.name
                )
            self.stop.unlink(missing_ok=True)
            self.attempt_folder.mkdir(parents=True)
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            raise unwritable(self.attempt_folder, error) from error


def _apply_policy(path: Path, resume: str) -> bool:
    """Return whether the run continues, or refuse; under ``never`` only one of two racers passes."""
    used = any(path.iterdir()) if path.is_dir() else path.exists()
    if resume == "must" and not used:
        raise CodexRayError(
            f"run folder {path} does not exist, so resume=must has nothing to continue; use resume=auto"
        )
    if resume == "never":
        try:
            if not used:
                path.mkdir(parents=True, exist_ok=path.is_dir())
                return False
        except FileExistsError:
            pass
        except OSError as error:
            raise unwritable(path, error) from error
        raise CodexRayError(
            f"run folder {path} exists; continue it with resume=auto or give another name=NAME"
        )
    return used


def _last_attempt(path: Path) -> int:
    names = [entry.name for entry in path.glob("attempts/*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def _write(path: Path, flag: int, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flag, 0o644)
    try:
        os.write(handle, text.encode("utf-8", errors="backslashreplace"))
    finally:
        os.close(handle)
