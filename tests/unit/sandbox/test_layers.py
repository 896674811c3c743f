"""Hosts that lack a layer: what is refused, what is said, and what a user may run all the same.

A host without a layer is this one, seen by a process whose system calls are refused in part.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from codex_ray.sandbox.filter import ARCHITECTURES, program

LACKING = """
import ctypes, os, struct, sys
import psutil
from codex_ray.config.sandbox import Sandbox as Settings
from codex_ray.errors import CodexRayError
from codex_ray.sandbox import filter, kernel
from codex_ray.sandbox.sandbox import Sandbox

FILES = "import os\\ndef f(): open('x', 'w'); return os.listdir(), os.getuid()"
FORKS = "import os\\nif os.fork() == 0:\\n    os.setsid(); os.fork()\\nwhile True: pass"

def lack(number, test, value):
    # Refuses a call whose first argument is or has some bits, here and in all children.
    code = filter._instructions((filter._LOAD, 0, 0, 0))
    code += filter._if_called(number, 0, [(test, 0, 1, value)], filter._FAIL | 1, filter._ALLOW)
    code = b"".join([*code, *filter._instructions((filter._RETURN, 0, 0, filter._ALLOW))])
    held = ctypes.create_string_buffer(code, len(code))
    said = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(held)))
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.prctl(kernel.PR_SET_SECCOMP, 2, ctypes.cast(said, ctypes.c_void_p))

def attempt(layers):
    try:
        with Sandbox(Settings(modules=[], wall_seconds=2.0, uncontained=layers)) as sandbox:
            print(sandbox.call(FILES, "f").value)
            print(sandbox.run(FORKS).failure)
            print(len(psutil.Process(sandbox._server.pid).children(recursive=True)))
    except CodexRayError as error:
        print(error)

"""
UNSHARE = {"x86_64": 272, "aarch64": 97}[os.uname().machine]
PRCTL = {"x86_64": 157, "aarch64": 167}[os.uname().machine]
NEW_USER, ANY_NAMESPACE = 0x10000000, 0x7E020000


def run(body: str, *before: str) -> list[str]:
    done = subprocess.run(
        [*before, sys.executable, "-c", LACKING + body],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_host_without_user_namespaces() -> None:
    said = run(f"lack({UNSHARE}, filter._ANY_BIT, {NEW_USER}); attempt([]); attempt(['users'])")
    assert said[0].startswith("this host does not give the sandbox its layers users ([Errno 1] unshare")
    assert "sandbox.uncontained=[" in said[0] and "code runs as the user that runs codex_ray" in said[0]
    if os.geteuid() == 0:  # who may have the other layers without it, and becomes nobody
        assert said[1:] == ["(['x'], 65534)", "time", "0"]


def test_a_host_without_any_namespace() -> None:
    said = run(
        f"lack({UNSHARE}, filter._ANY_BIT, {ANY_NAMESPACE}); attempt(['network']);"
        "attempt(['users', 'files', 'network', 'processes'])"
    )
    assert all(f"{layer} (" in said[0] for layer in ("users", "files", "processes"))
    assert "network (" not in said[0]  # which was named
    assert "code reads and writes whatever files that user may" in said[0]
    user = 65534 if os.geteuid() == 0 else os.geteuid()
    assert said[1:] == [f"(['x'], {user})", "time", "0"]


def test_a_host_without_filters_of_system_calls() -> None:
    said = run(f"lack({PRCTL}, filter._EQUAL, 22); attempt([]); attempt(['system_calls'])")
    assert "its layers system_calls (" in said[0] and "every system call is open" in said[0]
    assert said[1:] == ["(['x'], 65534)", "time", "0"]


@pytest.mark.parametrize("mapping", [["--map-root-user"], ["--map-user=1000", "--map-group=1000"]])
def test_users_without_rights(mapping: list[str]) -> None:
    """As in a container of an ordinary user, and as an ordinary user."""
    unshare = shutil.which("unshare")
    assert unshare is not None
    assert run("attempt([])", unshare, "--user", *mapping) == ["(['x'], 65534)", "time", "0"]


def test_filters_for_both_architectures() -> None:
    for machine in ARCHITECTURES:
        code = program(machine)
        assert len(code) % 8 == 0 and 300 < len(code) // 8 < 4096  # which the kernel takes at most
    with pytest.raises(OSError, match="riscv64 is neither"):
        program("riscv64")
