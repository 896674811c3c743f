"""One program in its sandbox, from outside: what is asked of it, what it answers and prints."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from codex_ray.config.sandbox import Sandbox as Settings
from codex_ray.errors import CodexRayError
from codex_ray.sandbox.wire import decode, encode

if TYPE_CHECKING:
    from codex_ray.sandbox.sandbox import Sandbox

GRACE_SECONDS = 15.0  # of a server that has to end a sandbox
_CHUNK = 2**16


@dataclass(frozen=True)
class Outcome:
    """How a program or one call of it went.

    Attributes:
        value: what it returned.
        failure: empty, or what it failed by: ``raised``, ``time``, ``cpu``, ``memory``,
            ``processes``, ``output``, ``result`` (too long, or none) or ``ended`` (before it answered).
        reason: the same in a sentence.
        stdout, stderr: what it has printed so far.
        seconds: wall clock, measured outside.
    """

    value: Any = None
    failure: str = ""
    reason: str = ""
    stdout: str = ""
    stderr: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether it did not fail."""
        return not self.failure


class _Over(Exception):
    """The program is not to be talked to any more."""

    def __init__(self, failure: str, reason: str) -> None:
        super().__init__(reason)
        self.failure = failure


class Session:
    """A program in its sandbox. What it answers is its own claim, of plain values, and nothing more.

    Args:
        owner: whose server starts it.
        program: what :meth:`load` sends.
        settings: its limits.
    """

    def __init__(self, owner: Sandbox, program: dict[str, Any], settings: Settings) -> None:
        self._owner, self._settings, self._program = owner, settings, program
        self._printed = {"stdout": bytearray(), "stderr": bytearray()}
        self._reply = bytearray()
        self._ended: dict[str, Any] | None = None
        self._failed: _Over | None = None
        self._closed = False
        self._began = time.monotonic()
        self._deadline = self._began + self._settings.wall_seconds + GRACE_SECONDS
        (asked, self._requests), (self._replies, reply), (out, stdout), (err, stderr) = (
            os.pipe() for _ in range(4)
        )
        self._streams = {out: "stdout", err: "stderr"}
        self._open = {self._replies, out, err}  # what may still be written to
        for pipe in (self._requests, self._replies, out, err):
            os.set_blocking(pipe, False)
        theirs = [asked, reply, stdout, stderr]
        # Where the host has no private root to give, it works in a folder of this one.
        self._folder = TemporaryDirectory(prefix="codex_ray_sandbox_") if "files" in owner.missing else None
        folder = self._folder.name if self._folder else None
        try:
            owner.say(json.dumps({**asdict(self._settings), "folder": folder}).encode(), theirs)
        except CodexRayError:
            self._close_pipes()
            raise
        finally:
            for pipe in theirs:
                os.close(pipe)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def load(self, answer: Callable[..., Any] | None = None) -> Outcome:
        """Run the program's own lines, which define its functions; ``answer`` as of :meth:`call`."""
        return self._exchange(self._program, None, answer)

    def call(
        self,
        function: str,
        *arguments: Any,
        named: Mapping[str, Any] | None = None,
        seconds: float | None = None,
        answer: Callable[..., Any] | None = None,
    ) -> Outcome:
        """Call one of the program's functions.

        Args:
            function: its name.
            arguments, named: as of :meth:`Sandbox.call`.
            seconds: longest wait for it; the settings bound the program's whole time.
            answer: answers what it asks; an exception of it is raised in the program.

        Raises:
            TypeError, ValueError: an argument cannot be sent.
        """
        request = {"call": function, "arguments": list(arguments), "named": dict(named or {})}
        return self._exchange(request, seconds, answer)

    def close(self) -> Outcome:
        """End the program; return what it printed and, where it has failed, how."""
        if not self._closed:
            self._closed = True
            try:
                self._end()
            finally:
                self._close_pipes()
        return self._outcome(self._failed)

    def _exchange(
        self, request: dict[str, Any], seconds: float | None, answer: Callable[..., Any] | None
    ) -> Outcome:
        """Send a request and take its reply, answering what the program asks meanwhile."""
        until = self._deadline if seconds is None else min(self._deadline, time.monotonic() + seconds)
        began, message = time.monotonic(), encode(request).encode()
        try:
            if self._failed is not None:
                raise self._failed
            if self._closed:
                raise _Over("ended", "the program has been ended")
            while True:
                reply = self._read_reply(message, until)
                if "ask" not in reply or answer is None:
                    break
                message = _answered(answer, reply["ask"]).encode()
            if "value" in reply:
                return self._outcome(None, reply["value"], time.monotonic() - began)
            raised = _Over("raised", f"{reply.get('error')}: {reply.get('reason')}")
            return self._outcome(raised, None, time.monotonic() - began)
        except _Over as over:
            self._failed = over
            if not self._closed:
                self.close()
            return self._outcome(over, None, time.monotonic() - began)

    def _read_reply(self, message: bytes, until: float) -> dict[str, Any]:
        """Send a line and return the next one that comes back.

        Raises:
            _Over: none comes, or it is none.
        """
        self._take(self._replies)
        if self._reply:
            raise _Over("result", "the program answered before it was asked")
        left = memoryview(message + b"\n")
        while b"\n" not in self._reply:
            left = self._talk(left, until)
        line, _, rest = bytes(self._reply).partition(b"\n")
        self._reply[:] = rest
        try:
            reply = decode(line)
        except ValueError as error:
            raise _Over("result", f"the program's answer cannot be read: {error}") from None
        if not isinstance(reply, dict):
            raise _Over("result", "the program's answer is not in the form of one")
        return reply

    def _talk(self, left: memoryview, until: float) -> memoryview:
        """Write and read what there is; return what is left to be written.

        Raises:
            _Over: the time is up, the program has ended, or it wrote too much.
        """
        seconds = until - time.monotonic()
        if seconds <= 0:
            raise _Over("time", "the program did not answer in the time that it had")
        ready = wait_for([*self._open, self._owner.control], [self._requests] if left else [], seconds)
        if self._requests in ready:
            try:
                left = left[os.write(self._requests, left) :]
            except BrokenPipeError:
                left = left[:0]  # it will be said how it ended
        for source in self._open & ready:
            self._take(source)
        if self._owner.control in ready and b"\n" not in self._reply:
            self._ended = self._owner.hear(until, "a sandbox to end")
            self._take(self._replies)
            if b"\n" not in self._reply:
                raise self._ending()
        return left

    def _take(self, source: int) -> None:
        """Read from a pipe what there is.

        Raises:
            _Over: that is too much.
        """
        with contextlib.suppress(BlockingIOError):
            while data := os.read(source, _CHUNK):
                if source == self._replies:
                    self._reply += data
                else:
                    self._printed[self._streams[source]] += data
                if len(self._reply) > self._settings.result_bytes:
                    raise _Over("result", f"a result is longer than {self._settings.result_bytes} bytes")
                if sum(map(len, self._printed.values())) > self._settings.output_bytes:
                    raise _Over("output", f"more than {self._settings.output_bytes} bytes were printed")
            self._open.discard(source)

    def _ending(self) -> _Over:
        """Say why a program ended that should not have.

        Raises:
            CodexRayError: it never ran.
        """
        assert self._ended is not None
        if "refused" in self._ended:
            raise CodexRayError(f"a sandbox could not be made: {self._ended['refused']}")
        limits, over, code = self._settings, self._ended.get("over"), self._ended.get("exit", 0)
        if over == "time":
            return _Over("time", f"the program took longer than {limits.wall_seconds:g} s")
        if over == "memory":
            return _Over("memory", f"the program took more than {limits.memory_bytes} bytes of memory")
        if over == "processes":
            return _Over("processes", f"the program had more than {limits.processes} processes")
        if code == -signal.SIGXCPU or self._ended.get("cpu_seconds", 0.0) >= limits.cpu_seconds:
            return _Over("cpu", f"the program took more than {limits.cpu_seconds} s of processor time")
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        return _Over("ended", f"the program {how} before it answered")

    def _end(self) -> None:
        if self._ended is None:
            self._ended = {"over": "stopped"}
            with contextlib.suppress(CodexRayError):  # of a server that is gone: the next program will say it
                self._owner.say(b".", [])  # the server answers by how it ended
                self._ended = self._owner.hear(time.monotonic() + GRACE_SECONDS, "a sandbox to end")
        try:
            for stream in self._streams:
                self._take(stream)
        except _Over as over:
            self._failed = self._failed or over

    def _close_pipes(self) -> None:
        for pipe in (self._requests, self._replies, *self._streams):
            os.close(pipe)
        if self._folder is not None:
            self._folder.cleanup()

    def _outcome(self, over: _Over | None, value: Any = None, seconds: float | None = None) -> Outcome:
        texts = {
            name: bytes(text[: self._settings.output_bytes]).decode(errors="replace")
            for name, text in self._printed.items()
        }
        return Outcome(
            value=value,
            failure=over.failure if over else "",
            reason=_printable(str(over)) if over else "",
            seconds=time.monotonic() - self._began if seconds is None else seconds,
            **texts,
        )


def wait_for(reading: list[int], writing: list[int], seconds: float) -> set[int]:
    """Return the files that can be read from or written to, none where that takes too long.

    Unlike ``select`` it takes files of any number, of which Ray's processes have many.
    """
    poll = select.poll()
    for file in reading:
        poll.register(file, select.POLLIN)
    for file in writing:
        poll.register(file, select.POLLOUT)
    return {file for file, _ in poll.poll(1e3 * max(0.0, seconds))}


def _printable(text: str) -> str:
    """Return a text without what a terminal would take for commands."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _answered(answer: Callable[..., Any], arguments: Any) -> str:
    """Return a line that answers what a program asks."""
    try:
        if not isinstance(arguments, list):
            raise TypeError("arguments are no list")
        return encode({"value": answer(*arguments)})
    except Exception as error:  # whatever answers may refuse what a program asks
        return encode({"error": f"{type(error).__name__}: {error}"})
