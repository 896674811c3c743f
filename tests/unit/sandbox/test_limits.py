"""Limits of the sandbox, and what comes out of it. No cluster."""

from __future__ import annotations

import re
import time

import pytest

from codex_ray.config.sandbox import Sandbox as Settings
from codex_ray.sandbox.sandbox import Sandbox
from tests.unit.sandbox.sandboxes import LIMITS, refused


def test_processor_time(sandbox: Sandbox) -> None:
    with Sandbox(Settings(cpu_seconds=1, wall_seconds=60.0)) as short:
        found = short.run("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass")
        assert found.failure == "cpu" and "1 s of processor time" in found.reason


@pytest.mark.parametrize(
    "line",
    [
        "bytearray(10**9)",
        "[0] * 10**9",
        "import mmap; mmap.mmap(-1, 10**9)",
        "'x' * 10**9",
        "import numpy; numpy.ones(10**9)",
        "ctypes.CDLL(None).malloc(10**10) or (_ for _ in ()).throw(MemoryError())",
    ],
)
def test_huge_allocations(sandbox: Sandbox, line: str) -> None:
    refused(sandbox, line, "MemoryError|Cannot allocate memory|Unable to allocate")


@pytest.mark.parametrize(
    "hold",
    ["bytearray(os.urandom(2**20) * 60)", "mmap.mmap(-1, 60 * 2**20); held.write(os.urandom(2**20) * 60)"],
)
def test_memory_of_many_processes_is_counted_together(sandbox: Sandbox, hold: str) -> None:
    """Each holds less than the limit, all together more: their own memory, and such as could be shared."""
    found = sandbox.run(
        "import mmap, os, time\n"
        "for _ in range(5):\n"
        "    if os.fork() == 0:\n"
        f"        held = {hold}; time.sleep(100)\n"
        "time.sleep(100)"
    )
    assert found.failure == "memory" and str(LIMITS.memory_bytes) in found.reason


def test_endless_output(sandbox: Sandbox) -> None:
    for stream in ("stdout", "stderr"):
        found = sandbox.run(f"import sys\nwhile True: print('x' * 1000, file=sys.{stream})")
        assert found.failure == "output" and "10000 bytes" in found.reason
        assert len(found.stdout + found.stderr) <= LIMITS.output_bytes


@pytest.mark.parametrize(
    ("line", "errors"),
    [
        (
            "with open('x', 'wb') as file:\n        while True: file.write(bytes(2**16))",
            "File too large|No space left",
        ),
        ("for i in range(64): open(str(i), 'wb').write(bytes(2**17))", "No space left"),
        ("for i in range(10**6): os.close(os.open(str(i), os.O_CREAT))", "No space left"),
        ("for i in range(10**6): os.mkdir(str(i))", "No space left"),
        ("os.truncate(os.open('x', os.O_CREAT | os.O_RDWR), 2**40)", "File too large"),
        ("os.posix_fallocate(os.open('x', os.O_CREAT | os.O_RDWR), 0, 2**30)", "File too large|No space"),
        ("[os.open('x', os.O_CREAT) for _ in range(10**4)]", "Too many open files"),
        ("os.mkfifo('pipe'); open('pipe').read()", "Operation not permitted"),
    ],
)
def test_disk(sandbox: Sandbox, line: str, errors: str) -> None:
    found = sandbox.call(
        "import os, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\ndef f():\n    " + line, "f"
    )
    assert found.failure == "raised"
    assert re.search(errors, found.reason), found


def test_a_pipe_that_blocks(sandbox: Sandbox) -> None:
    with Sandbox(Settings(wall_seconds=0.5)) as short:
        assert short.run("import os\na, b = os.pipe()\nos.read(a, 1)").failure == "time"


# Results


@pytest.mark.parametrize(
    "data",
    [
        "b'[' * 5000 + b'\\n'",
        "b'{\"value\": NaN}\\n'",
        "b'{\"value\": 1e999}\\n'",
        "b'{\"value\": [Infinity]}\\n'",
        "b'garbage\\n'",
        "b'\\xff\\xfe\\n'",
        "b'[1]\\n'",
        "b'\"x\"\\n'",
        "b'{\"value\": ' + b'9' * 50000 + b'}\\n'",
        "b'{\"value\": ' + b'[' * 300 + b']' * 300 + b'}\\n'",
        'b\'{"value": {"!": "os.system", "v": "id"}}\\n\'',
        'b\'{"value": {"!": "array", "dtype": "O", "shape": [1], "v": "AAAAAAAAAAA="}}\\n\'',
        'b\'{"value": {"!": "array", "dtype": "f8", "shape": [10000000000], "v": ""}}\\n\'',
        'b\'{"value": {"!": ["list"], "v": 1}}\\n\'',
        'b\'{"value": {"!": "set", "v": [[1]]}}\\n\'',
    ],
)
def test_forged_and_monstrous_results(sandbox: Sandbox, data: str) -> None:
    """Written straight into the pipe of replies."""
    found = sandbox.call(f"import os, time\ndef f():\n    os.write(4, {data}); time.sleep(100)", "f")
    assert found.failure == "result", found


@pytest.mark.parametrize("text", ["\\ud800", "\\x1b]0;title\\x07\\n\\x1b[2J", "\\x00"])
def test_reasons_can_be_written_and_shown(sandbox: Sandbox, text: str) -> None:
    """Half a surrogate pair would end whoever writes it; a terminal obeys escape sequences."""
    found = sandbox.run(f"raise ValueError('a {text} b')")
    assert (
        found.failure == "raised"
        and found.reason.startswith("ValueError: a ")
        and " b, line 1" in found.reason
    )
    assert found.reason.encode() and found.reason.isprintable()
    assert sandbox.call(f"def f(): return '{text}'", "f").failure == ("result" if "ud800" in text else "")
    forged = 'b\'{"error": "x", "reason": "\\\\ud800"}\\n\''
    assert sandbox.run(f"import os, time\nos.write(4, {forged}); time.sleep(100)").failure == "result"


def test_closing_its_output_costs_nothing(sandbox: Sandbox) -> None:
    before = time.process_time()
    found = sandbox.call("import os, time\nos.close(1); os.close(2)\ndef f(): time.sleep(1); return 1", "f")
    assert found.value == 1
    assert time.process_time() - before < 0.5  # it is waited for, and not looked at all the time


def test_results_are_bounded(sandbox: Sandbox) -> None:
    for source in (
        "def f(): return 'x' * 200000",
        "def f(): return list(range(10**5))",
        "import os\ndef f():\n    while True: os.write(4, b'x' * 1000)",
    ):
        found = sandbox.call(source, "f")
        assert found.failure == "result" and "longer than 100000 bytes" in found.reason, found


def test_an_answer_before_the_question(sandbox: Sandbox) -> None:
    with sandbox.open(
        'import os\nos.write(4, b\'{"value":null}\\n{"value":7}\\n\')\nimport time; time.sleep(9)'
    ) as one:
        one.load()
        found = one.call("f")
    assert found.failure == "result" and "before it was asked" in found.reason


def test_objects_of_its_own_do_not_get_out(sandbox: Sandbox) -> None:
    source = (
        "import pickle, os\n"
        "class Equal:\n"
        "    def __eq__(self, other): return True\n"
        "    def __reduce__(self): return os.system, ('touch /tmp/pwned',)\n"
        "class Number(float):\n"
        "    def __eq__(self, other): return True\n"
        "def f(): return Equal()\n"
        "def g(): return Number(2)\n"
        "def h(): return pickle.dumps(Equal())\n"
    )
    found = sandbox.call(source, "f")
    assert found.failure == "raised" and "a Equal cannot leave the sandbox" in found.reason
    number = sandbox.call(source, "g").value
    assert type(number) is float and number == 2
    assert type(sandbox.call(source, "h").value) is bytes  # and nobody unpickles it


def test_exiting_early_is_no_success(sandbox: Sandbox) -> None:
    for how in (
        "os._exit(0)",
        "sys.exit(0)",
        "raise SystemExit",
        "os.kill(os.getpid(), 9)",
        "ctypes.string_at(0)",
    ):
        found = sandbox.call(f"import os, sys, ctypes\ndef f(): {how}", "f")
        assert not found.ok and found.value is None and found.reason, how
    assert sandbox.run("import sys; print('all tests passed'); sys.exit(1)").failure == "raised"


def test_a_frozen_clock_deceives_the_program_alone(sandbox: Sandbox) -> None:
    found = sandbox.call(
        "import time\nsleep = time.sleep\n"
        "time.time = time.monotonic = time.perf_counter = lambda: 0.0\n"
        "def f(): sleep(0.3); return time.time()",
        "f",
    )
    assert found.ok and found.value == 0.0 and found.seconds >= 0.3


def test_breaking_what_serves_it(sandbox: Sandbox) -> None:
    for source in (
        "import json\njson.dumps = None\ndef f(): return 1",
        "import builtins\nbuiltins.len = None\nbuiltins.isinstance = None\ndef f(): return 1",
        "import os\nos.write = lambda *_: 1000000\ndef f(): return 1",
        "import sys\nsys.modules.clear()\ndef f(): return 1",
        "import os\nos.closerange(0, 10)\ndef f(): return 1",
        "import gc, types\nfor one in gc.get_objects():\n"
        "    if isinstance(one, types.FunctionType): one.__code__ = (lambda *a, **k: 1).__code__\n"
        "def f(): return 1",
    ):
        found = sandbox.call(source, "f")
        assert found.ok or found.reason
    assert sandbox.call("def f(): return 2", "f").value == 2
