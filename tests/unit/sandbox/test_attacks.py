"""Attacks on the sandbox: each is contained, and why is reported. No cluster.

Each attack is a program that a model might write. What is seen from outside is the outcome, the host
(a canary file, a listening socket, processes), and the next program in the same sandbox.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import psutil
import pytest

from codex_ray.config.sandbox import Sandbox as Settings
from codex_ray.errors import CodexRayError
from codex_ray.sandbox.sandbox import Sandbox
from tests.unit.sandbox.sandboxes import LIMITS, children, refused, server_of

# Reading


def test_no_secrets_of_the_environment(sandbox: Sandbox) -> None:
    found = sandbox.call("import os\ndef f(): return dict(os.environ)", "f")
    assert "CODEX_RAY_TEST_SECRET" not in found.value and set(found.value) <= {
        "HOME",
        "TMPDIR",
        "LANG",
        "OPENBLAS_NUM_THREADS",
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "LC_CTYPE",
    }
    memory = sandbox.call(
        "import ctypes, os\n"
        "def f():\n"
        "    libc = ctypes.CDLL(None)\n"
        "    libc.getenv.restype = ctypes.c_char_p\n"
        "    return libc.getenv(b'CODEX_RAY_TEST_SECRET')",
        "f",
    )
    assert memory.ok and memory.value is None


@pytest.mark.parametrize(
    "path",
    [
        "/proc/1/environ",
        "/proc/self/environ",
        "/proc/self/mem",
        "/proc/1/mem",
        "/proc/mounts",
        "/etc/passwd",
        "/etc/shadow",
        "/var/run/docker.sock",
        "/sys/kernel",
        "/dev/mem",
        "/dev/sda",
        "/run",
        "/bin/sh",
        "/usr/bin/env",
        "../etc/passwd",
        "/tmp/../etc/passwd",
        "/tmp/ray",
    ],
)
def test_no_files_of_the_host(sandbox: Sandbox, path: str) -> None:
    refused(sandbox, f"os.stat({path!r})", "FileNotFoundError")
    refused(sandbox, f"open({path!r}).read()", "FileNotFoundError")


def test_nothing_of_the_users_home_or_of_the_checkout(sandbox: Sandbox, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("swordfish")
    readme = Path.cwd() / "README.md"  # of a checkout in /tmp its environment's packages alone are shown
    for path in (canary, Path.home() / ".ssh", Path.home() / ".bashrc", Path(__file__), tmp_path, readme):
        refused(sandbox, f"open({str(path)!r}).read()", "FileNotFoundError")
    # By a link in the folder to write in, and by a hard link.
    refused(sandbox, f"os.symlink({str(canary)!r}, 'link'); open('link').read()", "FileNotFoundError")
    refused(sandbox, f"os.link({str(canary)!r}, 'link')", "FileNotFoundError")
    refused(sandbox, "os.link('/dev/null', 'link')", "Invalid cross-device|PermissionError")


def test_the_rewards_source_cannot_be_read_or_imported(sandbox: Sandbox) -> None:
    refused(sandbox, "import codex_ray.discover.problems.erdos", "ModuleNotFoundError")
    refused(sandbox, "import torch", "ModuleNotFoundError")  # which was not asked for
    found = sandbox.call(
        "import sys\ndef f(): return [name for name in sys.modules if name.startswith('codex_ray')]", "f"
    )
    assert set(found.value) <= {
        "codex_ray",
        "codex_ray.sandbox",
        *(
            f"codex_ray.sandbox.{name}"
            for name in ("cell", "child", "filter", "kernel", "layers", "root", "wire")
        ),
    }


def test_only_its_own_open_files(sandbox: Sandbox) -> None:
    found = sandbox.call(
        "import os\n"
        "def f():\n"
        "    got = []\n"
        "    for number in range(4096):\n"
        "        try:\n"
        "            os.fstat(number); got.append(number)\n"
        "        except OSError:\n"
        "            pass\n"
        "    return got",
        "f",
    )
    assert found.value == [0, 1, 2, 3, 4]  # standard streams, and the two pipes that are its own


# Writing


@pytest.mark.parametrize(
    "path", ["/x", "/usr/x", "/dev/x", "/tmp/../x", os.__file__, str(Path(os.__file__).parent / "x.py")]
)
def test_no_writing_elsewhere(sandbox: Sandbox, path: str) -> None:
    refused(sandbox, f"open({path!r}, 'w')", "Read-only file system|PermissionError|FileNotFoundError")
    refused(sandbox, f"os.unlink({path!r})", "Read-only file system|PermissionError|FileNotFoundError")


def test_a_mount_cannot_be_made_writable_again(sandbox: Sandbox) -> None:
    refused(
        sandbox,
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "    done = libc.mount(b'none', b'/', None, 32 | 4096, None)\n"
        "    raise OSError(ctypes.get_errno(), 'mount') if done else ValueError('it could')",
    )


def test_nothing_is_left_for_the_next_program(sandbox: Sandbox) -> None:
    listed = "import os\ndef f(): return sorted(os.listdir('/tmp') + os.listdir('/dev/shm'))"
    before = sandbox.call(listed, "f").value
    left = (
        "import os\n"
        "def f():\n"
        "    for path in ('/tmp/left', '/dev/shm/left', 'left2'):\n"
        "        open(path, 'w').write('x')\n"
        "    os.makedirs('/tmp/a/b')\n"
        "    return sorted(os.listdir('/tmp'))"
    )
    assert {"a", "left", "left2"} <= set(sandbox.call(left, "f").value)
    assert sandbox.call(listed, "f").value == before


def test_race_of_links(sandbox: Sandbox, tmp_path: Path) -> None:
    """A thread swaps a folder for a link outwards while another writes: what lies outside is not there."""
    found = sandbox.call(
        "import os, threading, time\n"
        "def f(target):\n"
        "    stop = []\n"
        "    def swap():\n"
        "        while not stop:\n"
        "            for make in (os.mkdir, lambda name: os.symlink(target, name)):\n"
        "                try:\n"
        "                    make('d'); (os.rmdir if make is os.mkdir else os.unlink)('d')\n"
        "                except OSError: pass\n"
        "    thread = threading.Thread(target=swap); thread.start()\n"
        "    end = time.time() + 0.3\n"
        "    while time.time() < end:\n"
        "        try: open('d/pwned', 'w').write('x'); os.unlink('d/pwned')\n"
        "        except OSError: pass\n"
        "    stop.append(1); thread.join()",
        "f",
        str(tmp_path),
    )
    assert found.ok and list(tmp_path.iterdir()) == []


# The network


@pytest.mark.parametrize(
    "line",
    [
        "socket.create_connection(('127.0.0.1', 6379), 1)",
        "socket.create_connection(('127.0.0.1', 8265), 1)",
        "socket.create_connection(('169.254.169.254', 80), 1)",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_INET6)",
        "socket.socket(socket.AF_UNIX)",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "socket.socket(socket.AF_VSOCK)",
        "socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)",
        "socket.getaddrinfo('example.org', 80)",
    ],
)
def test_no_socket(sandbox: Sandbox, line: str) -> None:
    refused(sandbox, line, "PermissionError|gaierror|FileNotFoundError")


def test_pairs_of_sockets_work_among_its_own(sandbox: Sandbox) -> None:
    found = sandbox.call(
        "import socket, asyncio\n"
        "def f():\n"
        "    a, b = socket.socketpair(); a.send(b'x'); asyncio.run(asyncio.sleep(0)); return b.recv(1)",
        "f",
    )
    assert found.value == b"x"


# System calls

SYSTEM_CALLS = {
    "ptrace": (101, "0, 0, 0, 0"),
    "mount": (165, "0, 0, 0, 0, 0"),
    "umount2": (166, "0, 0"),
    "chroot": (161, "b'/tmp'"),
    "pivot_root": (155, "b'.', b'.'"),
    "unshare": (272, "0x10000000"),
    "setns": (308, "3, 0"),
    "setuid": (105, "0"),
    "setgid": (106, "0"),
    "setresuid": (117, "0, 0, 0"),
    "keyctl": (250, "0, 0"),
    "add_key": (248, "0, 0, 0, 0, 0"),
    "request_key": (249, "0, 0, 0, 0"),
    "bpf": (321, "0, 0, 0"),
    "io_uring_setup": (425, "8, 0"),
    "perf_event_open": (298, "0, 0, 0, 0, 0"),
    "userfaultfd": (323, "0"),
    "memfd_create": (319, "b'x', 0"),
    "process_vm_readv": (310, "1, 0, 0, 0, 0, 0"),
    "process_vm_writev": (311, "1, 0, 0, 0, 0, 0"),
    "open_by_handle_at": (304, "0, 0, 0"),
    "name_to_handle_at": (303, "0, 0, 0, 0, 0"),
    "init_module": (175, "0, 0, 0"),
    "kexec_load": (246, "0, 0, 0, 0"),
    "personality": (135, "0"),
    "acct": (163, "0"),
    "swapon": (167, "0, 0"),
    "reboot": (169, "0, 0, 0, 0"),
    "settimeofday": (164, "0, 0"),
    "clock_settime": (227, "0, 0"),
    "sethostname": (170, "b'x', 1"),
    "shmget": (29, "0, 4096, 0o1600"),
    "msgget": (68, "0, 0o1600"),
    "mq_open": (240, "b'x', 66, 0o600, 0"),
    "fanotify_init": (300, "0, 0"),
    "inotify_init1": (294, "0"),
    "pidfd_open": (434, "1, 0"),
    "pidfd_getfd": (438, "0, 0, 0"),
    "mknod": (133, "b'x', 0o20600, 0x101"),
    "mlock": (149, "0, 4096"),
    "execve": (59, "b'/x', 0, 0"),
    "execveat": (322, "0, b'', 0, 0, 4096"),
    "seccomp": (317, "0, 0, 0"),
    "sched_setaffinity": (203, "0, 8, 0"),
    "setpriority": (141, "0, 0, -20"),
    "vmsplice": (278, "0, 0, 0, 0"),
    "clone with a namespace": (56, "0x10000011, 0, 0, 0, 0"),
    "an x32 call": (0x40000000 + 39, ""),
    "one that is not": (1000, ""),
}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64")
@pytest.mark.parametrize("name", SYSTEM_CALLS)
def test_system_calls(sandbox: Sandbox, name: str) -> None:
    number, arguments = SYSTEM_CALLS[name]
    refused(
        sandbox,
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        f"    done = libc.syscall({number}, {arguments or '0'})\n"
        "    raise OSError(ctypes.get_errno(), 'failed') if done < 0 else ValueError(f'it could: {done}')",
        r"Errno 1\]",
    )


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code of x86-64")
def test_the_old_way_into_the_kernel_kills(sandbox: Sandbox) -> None:
    """``int 0x80`` takes numbers of 32-bit calls, which mean others: mov eax, 20 (getpid); int 0x80; ret."""
    found = sandbox.call(
        "import ctypes, mmap\n"
        "def f():\n"
        "    page = mmap.mmap(-1, 4096, prot=7)\n"
        "    page.write(bytes([0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3]))\n"
        "    at = ctypes.addressof(ctypes.c_char.from_buffer(page))\n"
        "    return ctypes.CFUNCTYPE(ctypes.c_int)(at)()",
        "f",
    )
    assert found.failure == "ended" and "signal 31" in found.reason


def test_no_other_program(sandbox: Sandbox) -> None:
    refused(
        sandbox,
        "import subprocess; subprocess.run(['/bin/sh', '-c', 'id'])",
        "PermissionError|FileNotFoundError",
    )
    refused(sandbox, "os.execv(sys.executable, ['python'])")


def test_it_is_nobody_without_rights(sandbox: Sandbox) -> None:
    found = sandbox.call(
        "import os, ctypes\n"
        "def f():\n"
        "    data = (ctypes.c_uint32 * 6)(); head = (ctypes.c_uint32 * 2)(0x20080522, 0)\n"
        "    ctypes.CDLL(None).capget(head, data)\n"
        "    return os.getresuid(), os.getresgid(), os.getgroups(), list(data), os.uname().nodename",
        "f",
    )
    users, groups, others, capabilities, name = found.value
    assert set(users) == set(groups) == {65534} and set(others) <= {65534}
    assert capabilities == [0] * 6 and name == "sandbox"


# Processes


def test_signals_reach_nobody(sandbox: Sandbox) -> None:
    found = sandbox.call(
        "import os, signal, time\n"
        "def f():\n"
        "    said = []\n"
        f"    for target in (1, os.getppid(), {os.getpid()}, {server_of(sandbox).pid}):\n"
        "        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGSTOP, signal.SIGKILL):\n"
        "            try: os.kill(target, number); said.append('sent')\n"
        "            except OSError as error: said.append(type(error).__name__)\n"
        "    time.sleep(0.1)\n"
        "    return said",
        "f",
    )
    # The first process of a namespace is shielded from those inside; others are not there.
    assert found.ok, found
    assert found.value[8:] == ["ProcessLookupError"] * 8


def test_killing_all_kills_its_own(sandbox: Sandbox) -> None:
    found = sandbox.call(
        "import os, time\n"
        "def f():\n"
        "    child = os.fork()\n"
        "    if child == 0: time.sleep(100)\n"
        "    os.kill(-1, 9)\n"
        "    return os.waitpid(child, 0)[1]",
        "f",
    )
    assert found.value == 9


FORK_BOMB = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
THREAD_BOMB = (
    "import threading, time\nthreads = []\n"
    "def f():\n"
    "    for _ in range(1000):\n"
    "        threads.append(threading.Thread(target=time.sleep, args=(100,), daemon=True))\n"
    "        threads[-1].start()"
)


def test_fork_bomb(sandbox: Sandbox) -> None:
    """Both cores are taken, the others' processes are not: the bomb has its number and its time."""
    with sandbox.open(FORK_BOMB) as session:
        most = []
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.05):
                most.append(len(children(sandbox)))

        thread = threading.Thread(target=watch)
        thread.start()
        found = session.load()
        stop.set()
        thread.join()
    assert found.failure in ("time", "cpu"), found
    assert max(most) <= LIMITS.processes + 2  # the keeper, and the first process
    assert children(sandbox) == []


def test_thread_bomb(sandbox: Sandbox) -> None:
    found = sandbox.call(THREAD_BOMB, "f")
    assert found.failure == "raised" and "can't start new thread" in found.reason


@pytest.mark.parametrize(
    "leave",
    [
        "while True: time.sleep(1)",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)",
        "os.setsid()\nif os.fork() == 0:\n    os.setsid()\n    os.fork()\ntime.sleep(100)",
    ],
)
def test_past_the_deadline(leave: str) -> None:
    with Sandbox(Settings(wall_seconds=0.5)) as sandbox:
        began = time.monotonic()
        found = sandbox.run("import os, signal, time\n" + leave)
        assert found.failure == "time" and "0.5 s" in found.reason
        assert time.monotonic() - began < 15  # a busy machine's
        assert children(sandbox) == []


def test_what_it_leaves_running_ends_with_it(sandbox: Sandbox) -> None:
    daemon = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        while True: time.sleep(1)\n"
        "    os._exit(0)\n"
    )
    assert sandbox.run(daemon).ok
    assert children(sandbox) == []
    with sandbox.open(daemon + "os._exit(0)") as session:  # the program itself is gone
        assert session.load().failure == "ended"
    assert children(sandbox) == []


def test_all_of_it_dies_with_its_server() -> None:
    with Sandbox(LIMITS) as other, other.open("import time\ntime.sleep(100)") as session:
        inside = children(other, wait_for=3)
        server_of(other).kill()
        _, alive = psutil.wait_procs(inside, timeout=20)
        assert not alive
        with pytest.raises(CodexRayError, match="waited in vain"):
            session.load()
        with pytest.raises(CodexRayError, match="waited in vain"):
            other.run("1")


def test_a_listener_of_the_host_cannot_be_reached_without_the_filter_either(sandbox: Sandbox) -> None:
    """The network namespace holds by itself: its interfaces are none, and abstract names are its own."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        ours = Path("/proc/self/ns/net").stat().st_ino
        with sandbox.open("import time\ntime.sleep(100)"):
            inside = children(sandbox, wait_for=3)
            spaces = {Path(f"/proc/{one.pid}/ns/net").stat().st_ino for one in inside}
            listings = {Path(f"/proc/{one.pid}/net/dev").read_text().count(":") for one in inside}
        assert ours not in spaces and len(spaces) == 1 and listings == {1}  # the loopback interface, down
