"""Whether a program passes tests: for pass@k, and for rewards of code.

Tests and program run in a sandbox each and share nothing but arguments and results, as plain values. So a
program cannot read the tests, change what judges it, end it early with success, or return an object that says
it equals anything. What that costs: tests see no change that a function makes to its arguments, and none of
its classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from codex_ray.config.sandbox import Sandbox as Settings
from codex_ray.errors import CodexRayError
from codex_ray.sandbox.sandbox import Sandbox
from codex_ray.sandbox.session import Outcome

_PRELUDE = """\
def {name}(*arguments, **named):
    import builtins
    said = ask(list(arguments), named)
    if "value" in said:
        return said["value"]
    kind = getattr(builtins, said["raised"], None)
    known = isinstance(kind, type) and issubclass(kind, Exception)
    raise (kind if known else RuntimeError)(said["reason"])


candidate = {name}
"""
_CHECK = re.compile(r"^def check\(", re.MULTILINE)


class Judge:
    """Judges programs, one at a time.

    Args:
        settings: limits of each program, and of the tests of one program.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._program = Sandbox(settings)
        self._tests = Sandbox(settings)

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End both sandboxes."""
        self._program.close()
        self._tests.close()

    def run(self, program: str, tests: str, function: str) -> Outcome:
        """Run tests of one function of a program.

        Args:
            program: Python that defines ``function``.
            tests: Python that asserts of ``function``, also called ``candidate``; where it defines ``check``,
                as HumanEval's do, ``check(candidate)`` is called.
            function: name of the function.

        Returns:
            An outcome without failure where all passed. ``failure`` is ``tests`` where an assertion failed or
            the tests raised, else what the program itself failed by.
        """
        if not function.isidentifier():
            raise CodexRayError(f"{function!r} is no name of a function; give the one that the tests call")
        source = _PRELUDE.format(name=function) + tests
        source += "\n\ncheck(candidate)\n" if _CHECK.search(tests) else "\n"
        failed: list[Outcome] = []
        with self._program.open(program) as written:
            loaded = written.load()
            if not loaded.ok:
                return loaded

            def answer(arguments: list[Any], named: dict[str, Any]) -> dict[str, Any]:
                done = written.call(function, *arguments, named=named)
                if done.ok:
                    return {"value": done.value}
                failed.append(done)
                kind, _, reason = done.reason.partition(": ")
                return {"raised": kind if done.failure == "raised" else "RuntimeError", "reason": reason}

            with self._tests.open(source, asks=True) as judging:
                judged = judging.load(answer)
        if judged.ok:
            return written.close()
        if failed and failed[-1].failure != "raised":
            return failed[-1]
        return Outcome(
            failure="tests", reason=judged.reason, stdout=written.close().stdout, seconds=judged.seconds
        )

    def outputs(self, program: str, cases: Iterable[tuple[str, str]]) -> Outcome:
        """Run a program on several inputs, in a sandbox each, and compare what it prints.

        Args:
            program: Python that reads standard input.
            cases: pairs of input and wanted output; blanks at the ends of lines and of all do not count.
        """
        done = Outcome(failure="tests", reason="there are no cases")
        for number, (given, wanted) in enumerate(cases):
            done = self._program.run(program, stdin=given)
            if not done.ok:
                return done
            if _lines(done.stdout) != _lines(wanted):
                reason = f"case {number}: {done.stdout[:200]!r} was printed, and {wanted[:200]!r} is wanted"
                return Outcome(failure="tests", reason=reason, stdout=done.stdout, seconds=done.seconds)
        return done


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
