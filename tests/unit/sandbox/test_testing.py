"""Programs judged by tests, and those that would rather judge themselves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from codex_ray.config.sandbox import Sandbox as Settings
from codex_ray.errors import CodexRayError
from codex_ray.sandbox.testing import Judge

CHECK = (
    "def check(candidate):\n"
    "    assert candidate([3, 1, 2]) == [1, 2, 3]\n"
    "    assert candidate([]) == []\n"
    "    assert candidate([1, 2], reverse=True) == [2, 1]\n"
    "    try: candidate(None)\n"
    "    except TypeError: pass\n"
    "    else: assert False, 'None was sorted'\n"
)
ASSERTS = "assert order([2, 1]) == [1, 2]\nassert type(order((2, 1))) is list"
GOOD = "def order(numbers, reverse=False): return sorted(numbers, reverse=reverse)"

CHEATS = {
    "an object that equals all": (
        "class All(list):\n    def __eq__(self, other): return True\n    __ne__ = None\n"
        "def order(*a, **k): return All()"
    ),
    "an object of its own": (
        "class All:\n    def __eq__(self, other): return True\ndef order(*a, **k): return All()"
    ),
    "ending with success at once": "import sys; sys.exit(0)",
    "ending with success in a call": "import os\ndef order(*a, **k): os._exit(0)",
    "patching what judges": (
        "import builtins\nbuiltins.AssertionError = Exception\ndef order(*a, **k): return 1"
    ),
    "looking for the tests": (
        "import gc\n"
        "def order(numbers, reverse=False):\n"
        "    texts = [one for one in gc.get_objects() if isinstance(one, str) and 'candidate' in one]\n"
        "    import sys\n"
        "    frame = sys._getframe()\n"
        "    while frame: texts += [k for k in frame.f_globals if k == 'check']; frame = frame.f_back\n"
        "    return texts"
    ),
    "a forged answer": "import os\nos.write(4, b'{\"value\": null}\\n')\ndef order(*a, **k): return 1",
    "asking the judge": "def order(*a, **k): return ask(1)",
    "printing that all is well": "print('OK')\ndef order(*a, **k): print('all tests passed')",
    "never ending": "def order(*a, **k):\n    while True: pass",
    "nothing": "",
    "another name": "def sort(numbers): return sorted(numbers)",
}


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(Settings(wall_seconds=2.0, modules=[])) as made:
        yield made


def test_a_good_program_passes(judge: Judge) -> None:
    assert judge.run(GOOD, CHECK, "order").ok
    assert judge.run("print('hello')\n" + GOOD, ASSERTS, "order").stdout == "hello\n"


def test_a_wrong_one_fails_by_its_test(judge: Judge) -> None:
    found = judge.run("def order(numbers, reverse=False): return list(numbers)", CHECK, "order")
    assert (found.failure, found.reason) == ("tests", "AssertionError: , line 13")
    found = judge.run("def order(numbers, reverse=False): return sorted(numbers or [])", CHECK, "order")
    assert found.failure == "tests"
    tuples = judge.run("def order(numbers): return tuple(sorted(numbers))", ASSERTS, "order")
    assert tuples.failure == "tests"  # a tuple is no list, on this side of the sandbox too


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_fail(judge: Judge, name: str) -> None:
    for tests in (CHECK, ASSERTS):
        found = judge.run(CHEATS[name], tests, "order")
        assert not found.ok and found.reason, name
    assert judge.run(GOOD, CHECK, "order").ok  # nothing is left of it


def test_outputs(judge: Judge) -> None:
    program = "print(int(input()) ** 2, ' ')"
    assert judge.outputs(program, [("2\n", "4"), ("3\n", "9\n\n")]).ok
    found = judge.outputs(program, [("2\n", "4"), ("3\n", "8")])
    assert found.failure == "tests" and found.reason.startswith("case 1: '9  \\n' was printed")
    assert judge.outputs(program, [("x", "4")]).failure == "raised"
    assert judge.outputs(program, []).reason == "there are no cases"
    assert judge.outputs("import os; print(4, flush=True); os._exit(0)", [("2", "4")]).failure == "ended"


def test_what_is_no_name(judge: Judge) -> None:
    with pytest.raises(CodexRayError, match="is no name of a function"):
        judge.run(GOOD, CHECK, "os.system('x')")
