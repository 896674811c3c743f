"""Programs in the sandbox that mean no harm: what goes in, what comes out, and how failures are told."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.config.sandbox import Sandbox as Settings
from codex_ray.errors import CodexRayError
from codex_ray.sandbox.sandbox import Sandbox
from codex_ray.sandbox.wire import decode, encode, plain

VALUES: list[Any] = [
    None, True, 0, -(10**30), 1.5, float("inf"), float("nan"), "é\n", b"\xff", [1, [2]], (1, (2,)), {1, 2},
    {"a": 1}, {1: (2, 3)}, {"!": 1}, {(1, 2): "x"}, 1 + 2j, frozenset({3}), [],
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_keep_their_kind(sandbox: Sandbox, value: Any) -> None:
    found = sandbox.call("def f(value): return value", "f", value)
    assert found.ok and type(found.value) is type(value) and repr(found.value) == repr(value)


_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
)
_HASHABLE = st.recursive(st.integers() | st.text(), lambda inner: st.tuples(inner, inner), max_leaves=4)


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        _LEAVES,
        lambda inner: (
            st.lists(inner) | st.dictionaries(_HASHABLE, inner) | st.tuples(inner, inner) | st.sets(_HASHABLE)
        ),
        max_leaves=20,
    )
)
def test_values_are_the_same_after_the_wire(value: Any) -> None:
    assert decode(encode(value)) == value


def test_arrays(sandbox: Sandbox) -> None:
    for array in (
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array(2),
        np.zeros((0, 3)),
        np.eye(2)[::-1],
    ):
        found = sandbox.call("def f(array): return [array, array.sum(), array > 1]", "f", array)
        assert found.ok, found
        np.testing.assert_array_equal(found.value[0], array)
        assert found.value[0].dtype == array.dtype and found.value[0].shape == array.shape
    assert plain([np.arange(2), (1, {2})]) == [[0, 1], [1, [2]]]


def test_a_program_reads_and_prints(sandbox: Sandbox) -> None:
    source = "import sys\nprint(sum(map(int, input().split())))\nprint('x', file=sys.stderr)"
    found = sandbox.run(source, stdin="1 2 3\n")
    assert (found.ok, found.stdout, found.stderr) == (True, "6\n", "x\n")
    assert sandbox.run("import os\nprint(os.read(0, 5))", stdin="ab").stdout == "b'ab'\n"
    assert sandbox.run("import sys; sys.exit()").ok
    assert sandbox.run("if __name__ == '__main__': print('main')").stdout == "main\n"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero, line 1"),
        ("def f(:", "SyntaxError"),
        ("\n\nraise ValueError('no')", "ValueError: no, line 3"),
        ("import sys; sys.exit('bad luck')", "SystemExit: bad luck"),
        ("class Odd(Exception):\n    def __str__(self): raise Odd\nraise Odd", "Odd: no message, line 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("x = '\\x00", "SyntaxError"),
    ],
)
def test_what_a_program_raises_is_told(sandbox: Sandbox, source: str, reason: str) -> None:
    found = sandbox.run(source)
    assert found.failure == "raised" and reason in found.reason


def test_functions_that_are_not_there(sandbox: Sandbox) -> None:
    assert "defines no function f" in sandbox.call("g = 1", "f").reason
    assert "TypeError" in sandbox.call("def f(): pass", "f", 1).reason


def test_a_session_keeps_its_state_and_goes_on_after_an_exception(sandbox: Sandbox) -> None:
    with sandbox.open("count = []\ndef f(x):\n    count.append(x)\n    return 6 // x, len(count)") as session:
        assert session.load().ok
        assert session.call("f", 2).value == (3, 1)
        assert session.call("f", 0).failure == "raised"
        assert session.call("f", 3).value == (2, 3)
    assert session.call("f", 3).failure == "ended"
    with sandbox.open("def f(): return 1") as again, pytest.raises(TypeError, match="cannot leave"):
        again.call("f", object())


def test_one_call_may_be_given_less_time(sandbox: Sandbox) -> None:
    with sandbox.open("import time\ndef f(x): time.sleep(x); return x") as session:
        session.load()
        assert session.call("f", 0, seconds=4.0).ok
        assert session.call("f", 100, seconds=0.2).failure == "time"
        assert session.call("f", 0).failure == "time"  # it is over


def test_a_program_asks_and_is_answered(sandbox: Sandbox) -> None:
    source = (
        "def f(n):\n"
        "    total = sum(ask(i, i) for i in range(n))\n"
        "    try: ask('no', 0)\n"
        "    except RuntimeError as error: return total, str(error)\n"
    )
    with sandbox.open(source, asks=True) as session:
        session.load()
        found = session.call("f", 4, answer=lambda a, b: a * b if b else int(a))
    assert found.value[0] == 14 and found.value[1].startswith("ValueError: invalid literal")
    # Nobody answers what was not to be asked.
    assert sandbox.call("def f(): return ask(1)", "f").failure == "raised"


def test_several_at_a_time() -> None:
    with Sandbox() as one, Sandbox() as other:
        a, b = one.open("def f(): return 1"), other.open("def f(): return 2")
        assert a.load().ok and b.load().ok
        assert (b.call("f").value, a.call("f").value) == (2, 1)


def test_modules_that_are_asked_for() -> None:
    with Sandbox(Settings(modules=["scipy.optimize"])) as sandbox:
        found = sandbox.call(
            "import scipy.optimize, scipy.linalg\n"
            "def f(): return round(scipy.optimize.brentq(lambda x: x * x - 2, 0, 2), 6)",
            "f",
        )
        assert found.value == 1.414214
    with Sandbox(Settings(modules=[])) as bare:
        assert bare.run("import numpy").reason.startswith("ModuleNotFoundError")
        assert bare.run("import json, decimal, sqlite3, ssl, lzma, bz2, csv, zlib").ok
    with pytest.raises(CodexRayError, match="nothing_such is not installed"):
        Sandbox(Settings(modules=["nothing_such"]))


def test_a_closed_sandbox_says_so() -> None:
    sandbox = Sandbox(Settings(modules=[]))
    sandbox.close()
    sandbox.close()
    with pytest.raises(CodexRayError, match="closed"):
        sandbox.run("1")


def test_forty_programs_one_after_another(sandbox: Sandbox) -> None:
    began = time.monotonic()
    assert [sandbox.call(f"def f(): return {i}", "f").value for i in range(40)] == list(range(40))
    assert time.monotonic() - began < 60
