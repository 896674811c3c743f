"""Running a program in a sandbox, from outside.

A :class:`Sandbox` owns a fork server; each program gets a sandbox of its own in a few milliseconds: a private
root, process, network and user namespaces, a system call filter, and limits. ``docs/sandbox.md`` says what is
contained by which layer, and what is not: the kernel itself and side channels first of all.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import codex_ray
from codex_ray.config.sandbox import Sandbox as Settings
from codex_ray.errors import CodexRayError
from codex_ray.sandbox.layers import LAYERS
from codex_ray.sandbox.root import package_paths
from codex_ray.sandbox.session import GRACE_SECONDS, Outcome, Session, wait_for

_SERVER = Path(__file__).with_name("server.py")
_START_SECONDS = 60.0
_CHUNK = 2**16
# One thread each: a sandbox is a fork, and forks have no other threads.
_ENVIRONMENT = {
    "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}  # fmt: skip


class Sandbox:
    """Starts sandboxes, one at a time; use several for several at a time. Threads must not share one.

    Args:
        settings: limits, modules, and layers that may be missing.

    Raises:
        CodexRayError: a layer is missing on this host and not among ``uncontained``, or a module is.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        if not sys.platform.startswith("linux"):
            raise CodexRayError("the sandbox needs Linux namespaces; run programs on a Linux host")
        self._control: socket.socket | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._last_words = ""  # of a server that is gone
        self.missing: dict[str, str] = {}
        self._running: Session | None = None
        try:
            self._start()
            self._try()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the fork server, and with it whatever runs."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._server is not None:
            try:
                self._server.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self._server.kill()  # its sandbox dies with it
                self._server.wait()
            self._server = None

    def _start(self) -> None:
        try:
            packages = package_paths(_distribution(name) for name in self.settings.modules)
        except LookupError as error:
            raise CodexRayError(f"sandbox.modules: {error}; install it, or leave it out") from None
        given = {
            "packages": packages,
            "folders": [*dict.fromkeys(str(Path(path).parent) for path in packages), _codex_ray_folder()],
            "modules": self.settings.modules,
        }
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control = ours
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_SERVER), json.dumps(given), str(theirs.fileno())],
                env=_ENVIRONMENT,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        told = self.hear(time.monotonic() + _START_SECONDS, "the sandbox's server to start")
        if "broken" in told:
            raise CodexRayError(f"sandbox.modules: {told['broken']}; leave it out")
        self.missing = told["missing"]
        lacking = {name: why for name, why in self.missing.items() if name not in self.settings.uncontained}
        if lacking:
            names = ", ".join(f"{name} ({why})" for name, why in lacking.items())
            meaning = "; ".join(LAYERS[name] for name in lacking)
            raise CodexRayError(
                f"this host does not give the sandbox its layers {names}; allow user namespaces (in a "
                "container, by its seccomp profile), or run what a model wrote all the same, with "
                f"sandbox.uncontained=[{','.join(lacking)}], by which {meaning}"
            )

    def _try(self) -> None:
        """Run a program that does nothing, in all the time that a busy machine may take."""
        patient = replace(self.settings, wall_seconds=_START_SECONDS, cpu_seconds=round(_START_SECONDS))
        with Session(self, {"source": "", "stdin": "", "asks": False}, patient) as session:
            tried = session.load()
        if not tried.ok:
            raise CodexRayError(f"the sandbox runs no program here: {tried.reason} {tried.stderr}".strip())

    def say(self, message: bytes, pipes: list[int]) -> None:
        """Tell the server something, and hand pipes over with it.

        Raises:
            CodexRayError: it is gone.
        """
        if self._control is None:
            raise CodexRayError("this sandbox is closed; make a new one")
        try:
            socket.send_fds(self._control, [message], pipes)
        except OSError:
            self.hear(0.0, "the sandbox's server to take a program")

    @property
    def control(self) -> int:
        """Where the server's words come from."""
        return -1 if self._control is None else self._control.fileno()

    def hear(self, deadline: float, what: str) -> dict[str, Any]:
        """Wait for the server to say something."""
        assert self._control is not None and self._server is not None
        with contextlib.suppress(OSError):
            if wait_for([self._control.fileno()], [], deadline - time.monotonic()):
                message = self._control.recv(_CHUNK)
                if message:
                    words: dict[str, Any] = json.loads(message)
                    return words
        if not self._last_words:
            self._server.kill()
            _, printed = self._server.communicate()
            self._last_words = (printed.decode(errors="replace").strip().splitlines() or ["it said nothing"])[
                -1
            ]
        raise CodexRayError(f"waited in vain for {what}: {self._last_words}")

    def open(self, source: str, *, stdin: str = "", asks: bool = False) -> Session:
        """Start a program in a sandbox of its own, and end the one before.

        Args:
            source: Python code, run as ``__main__``. It is loaded by :meth:`Session.load`.
            stdin: its standard input.
            asks: give it a function ``ask(*arguments)``, which ``answer`` of :meth:`Session.call` answers.

        Raises:
            CodexRayError: no sandbox can be started.
        """
        if self._running is not None:
            self._running.close()
        program = {"source": source, "stdin": stdin, "asks": asks}
        self._running = Session(self, program, self.settings)
        return self._running

    def run(self, source: str, *, stdin: str = "") -> Outcome:
        """Run a program to its end; what it printed is in the outcome."""
        with self.open(source, stdin=stdin) as session:
            done = session.load()
            return session.close() if done.ok else done

    def call(self, source: str, function: str, *arguments: Any) -> Outcome:
        """Load a program and call one of its functions.

        Args:
            source: Python code.
            function: name of the function.
            arguments: numbers, strings, bytes, None, lists, tuples, sets, dictionaries and NumPy arrays.
        """
        with self.open(source) as session:
            loaded = session.load()
            return session.call(function, *arguments) if loaded.ok else loaded


def _codex_ray_folder() -> str:
    return str(Path(codex_ray.__file__).resolve().parents[1])


def _distribution(module: str) -> str:
    """Return what is installed under a module's name, or what has the module."""
    name = module.split(".")[0]
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return importlib.metadata.packages_distributions().get(name, [name])[0]
    return name
