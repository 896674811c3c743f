"""The program's side: runs inside the sandbox, in the process that the program can do with as it likes.

Nothing here guards anything. It loads the program and answers calls, one line of JSON each; what it answers
is what the program wants it to, and is judged outside.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from codex_ray.sandbox.wire import decode, encode

PROGRAM = "program.py"
_LONGEST_REASON = 2000


def serve(requests: int, replies: int) -> None:
    """Answer until there are no more requests.

    Args:
        requests, replies: pipes.
    """
    asked = os.fdopen(requests, "rb")
    namespace: dict[str, Any] = {"__name__": "__main__", "__file__": PROGRAM, "__builtins__": __builtins__}

    def ask(*arguments: Any) -> Any:
        """Hand arguments to whoever sent the program, and return the answer; it may raise."""
        _send(replies, encode({"ask": list(arguments)}))
        answer = decode(asked.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    for line in asked:
        request = decode(line)
        try:
            if "source" in request:
                _feed(request["stdin"])
                namespace.update({"ask": ask} if request["asks"] else {})
                _load(request["source"], namespace)
                value = None
            else:
                value = _find(namespace, request["call"])(*request["arguments"], **request["named"])
            reply = encode({"value": value})
        except BaseException as error:  # whatever a program raises is told
            reply = encode({"error": type(error).__name__, "reason": _reason(error)})
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # the program may have closed or replaced it
                stream.flush()
        _send(replies, reply)


def _feed(text: str) -> None:
    """Make a text the standard input."""
    with open("stdin", "wb+", buffering=0) as file:  # noqa: PTH123
        os.unlink("stdin")  # noqa: PTH108
        file.write(text.encode())
        file.seek(0)
        os.dup2(file.fileno(), 0)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")


def _load(source: str, namespace: dict[str, Any]) -> None:
    try:
        exec(compile(source, PROGRAM, "exec"), namespace)
    except SystemExit as end:
        if end.code not in (None, 0):
            raise


def _find(namespace: dict[str, Any], name: str) -> Callable[..., Any]:
    found = namespace.get(name)
    if not callable(found):
        raise NameError(f"the program defines no function {name}")
    return found  # type: ignore[no-any-return]


def _reason(error: BaseException) -> str:
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == PROGRAM]
    where = f", line {places[-1].lineno}" if places else ""
    try:
        text = str(error)
    except BaseException:  # an exception of the program's own
        text = "no message"
    return f"{text[:_LONGEST_REASON]}{where}".encode(errors="replace").decode()


def _send(replies: int, text: str) -> None:
    data = text.encode() + b"\n"
    while data:
        data = data[os.write(replies, data) :]
