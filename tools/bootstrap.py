#!/usr/bin/env python3
"""Create .venv and install the locked dependencies, with nothing but the standard library.

    python3 tools/bootstrap.py          what running codex_ray needs
    python3 tools/bootstrap.py --dev    and what tests, checks and documentation need

Run again, it does nothing while the lock, pyproject.toml and the interpreter are unchanged; a set-up
that was cut off is done afresh. TORCH_INDEX_URL names the index PyTorch comes from; without it, a
machine with no NVIDIA GPU takes the CPU build where one can be reached.

It starts on Python 3.8 too, so that it can look for a newer one or say that there is none.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements" / "constraints.txt"
STAMP = VENV / "codex_ray.stamp"
UNFINISHED = VENV / "codex_ray.unfinished"
LOG = VENV / "setup.log"
VERSIONS = ("3.13", "3.12", "3.11")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PIP_LIMIT_SECONDS = 3600.0


class Size(NamedTuple):
    """What an installation costs, in megabytes (10^6 bytes), measured on Python 3.11, Linux x86-64."""

    download: int
    disk: int


RUNTIME = Size(download=540, disk=2400)
DEVELOPMENT = Size(download=72, disk=275)
CUDA_EXTRA = Size(download=2550, disk=4000)
BROWSER = Size(download=125, disk=415)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Torch(NamedTuple):
    """Where torch is taken from (``url`` None: pip's own index), and which build that is, in words."""

    url: str | None
    cuda: bool
    build: str


class SetupError(Exception):
    """A set-up that cannot go on, in one sentence with the remedy."""


def main() -> int:
    """Set up and return the exit status."""
    parser = argparse.ArgumentParser(description="Create .venv with the locked dependencies.")
    parser.add_argument("--dev", action="store_true", help="also install test, check and documentation tools")
    arguments = parser.parse_args()
    try:
        with LOCK.open() as holder:
            try:
                fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise SetupError(f"another set-up of {ROOT} is running; wait for it to end") from None
            set_up(arguments.dev)
            if arguments.dev:
                add_browser()
    except (SetupError, OSError) as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nset-up: interrupted; run it again to do it afresh", file=sys.stderr)
        return 130
    return 0


def set_up(dev: bool) -> None:
    """Bring .venv to the state that the lock and pyproject.toml describe."""
    stamp = read_stamp()
    dev = dev or stamp.get("dev") is True  # a smaller request never takes tools away
    wanted = {"key": fingerprint(), "dev": dev}
    if stamp == wanted and venv_works():
        return
    started = time.monotonic()
    if UNFINISHED.exists() or not venv_works():
        python = find_python()
        if VENV.exists():
            print("set-up: .venv is unfinished or of another Python; making it afresh")
            shutil.rmtree(VENV)
        stamp = {}
        VENV.mkdir()
        UNFINISHED.touch()
        run_logged([python, "-m", "venv", str(VENV)], "creating .venv")
    torch = choose_torch()
    announce(stamp, dev, torch)
    UNFINISHED.touch()
    STAMP.unlink(missing_ok=True)
    install(dev, torch.url)
    STAMP.write_text(json.dumps(wanted) + "\n")
    UNFINISHED.unlink()
    print(f"set-up: done in {time.monotonic() - started:.0f} s; {VENV} is ready")


def find_python() -> str:
    """Return an interpreter of a supported version that can make virtual environments.

    Raises:
        SetupError: there is none; the sentence says what to install.
    """
    # The real path, so that a virtual environment about to be removed is not asked to make its successor.
    candidates = [os.path.realpath(sys.executable), *("python" + version for version in VERSIONS)]
    unable = None
    for candidate in candidates:
        version = python_version(candidate)
        if version in VERSIONS and python_version(candidate, needs="venv, ensurepip"):
            return candidate
        if version in VERSIONS:
            unable = version
    if unable:
        raise SetupError(
            f"Python {unable} cannot make virtual environments here; install its venv module "
            f"(Debian and Ubuntu: apt install python{unable}-venv) and run it again"
        )
    this = ".".join(map(str, sys.version_info[:2]))
    raise SetupError(
        f"Python 3.11, 3.12 or 3.13 is needed and this is {this}; install one of them so that "
        "python3.11 (or 3.12, 3.13) is on PATH"
    )


def python_version(command: str, needs: str = "sys") -> str | None:
    """Return the version (as "3.11") of an interpreter that starts and imports ``needs``, else None."""
    code = f"import sys, {needs}; print('.'.join(map(str, sys.version_info[:2])))"
    try:
        answer = subprocess.run([command, "-c", code], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if answer.returncode else answer.stdout.strip()


def venv_works() -> bool:
    """Say whether .venv has a supported interpreter that starts and has pip."""
    return python_version(str(VENV / "bin" / "python"), needs="pip") in VERSIONS


def fingerprint() -> str:
    """Hash what the environment is made from: the lock, pyproject.toml and this checkout's place."""
    digest = hashlib.sha256(str(ROOT).encode())
    for path in (LOCK, ROOT / "pyproject.toml"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def read_stamp() -> dict[str, Any]:
    """Return what the finished set-up recorded; empty if there is none."""
    try:
        stamp: dict[str, Any] = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp


def choose_torch() -> Torch:
    """Decide where torch comes from: the CPU build where there is no NVIDIA GPU and one can be reached."""
    url = os.environ.get("TORCH_INDEX_URL")
    if url:
        return Torch(url, cuda=not url.rstrip("/").endswith("/cpu"), build=f"PyTorch from {url}")
    cpu = "CPU build of PyTorch; the CUDA build, taken where there is an NVIDIA GPU, is {} and {} MB more"
    cpu = cpu.format(*CUDA_EXTRA)
    if sys.platform != "linux":
        return Torch(None, cuda=False, build="PyTorch without CUDA")
    if shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists():
        return Torch(None, cuda=True, build="CUDA build of PyTorch")
    command = [str(VENV / "bin" / "python"), "-m", "pip", "index", "versions", "torch"]
    try:
        offered = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    except subprocess.TimeoutExpired:
        offered = ""
    if f"{locked('torch')}+cpu" in offered.replace(",", " ").split():
        return Torch(None, cuda=False, build=cpu)
    if answers(CPU_INDEX + "/torch/", seconds=3.0):
        return Torch(CPU_INDEX, cuda=False, build=cpu)
    build = "CUDA build of PyTorch, since no index with the CPU build answers; TORCH_INDEX_URL names one"
    return Torch(None, cuda=True, build=build)


def answers(url: str, seconds: float) -> bool:
    """Say whether ``url`` answers in time, the time to look up its name included."""
    found: list[bool] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=seconds) as response:
                found.append(response.status == 200)
        except (OSError, ValueError):
            found.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return found == [True]


def locked(name: str) -> str:
    """Return the version that the lock pins for ``name``."""
    for line in LOCK.read_text().splitlines():
        if line.startswith(name + "=="):
            return line.split("==")[1].strip()
    raise SetupError(f"{LOCK} does not pin {name}; run `git checkout {LOCK}`")


def announce(stamp: dict[str, Any], dev: bool, torch: Torch) -> None:
    """Say what will be downloaded and stored, and refuse where the disk is too small."""
    if stamp and stamp.get("dev") == dev:
        print("set-up: the lock or pyproject.toml has changed; installing what differs")
        return
    parts = [] if stamp else [RUNTIME] + [CUDA_EXTRA] * torch.cuda
    parts += [DEVELOPMENT] * dev
    download, disk = sum(part.download for part in parts), sum(part.disk for part in parts)
    what = "tools for tests, checks and documentation" if stamp else torch.build
    print(f"set-up: about {download} MB to download, {disk} MB on disk ({what})")
    # What is downloaded lies beside what it becomes while pip installs it.
    needed, free = disk + download, shutil.disk_usage(ROOT).free // 10**6
    if free < needed:
        raise SetupError(
            f"{ROOT} has {free} MB free and the set-up needs {needed} MB; free some space and run it again"
        )


def platform_name(python: str | None = None) -> str:
    """Name this machine's kind as files of hashes do, for a version of Python (this one if unset)."""
    tag = (python or platform.python_version()).split(".")[:2]
    return f"{sys.platform}-{platform.machine()}-cp{''.join(tag)}"


def hash_file(dev: bool, python: str | None = None) -> Path:
    """Return where the hashes for this platform lie, if there are any."""
    return LOCK.parent / f"hashes.{platform_name(python)}{'.dev' if dev else ''}.txt"


def hashes(dev: bool) -> Path | None:
    """Return the file of hashes that pip is held to here; None on platforms without one."""
    path = hash_file(dev, python_version(str(VENV / "bin" / "python")))
    if not path.is_file():
        return None
    least = re.search(r"glibc 2[.](\d+)", path.read_text())
    library, version = platform.libc_ver()
    newest = int(version.split(".")[1]) if library == "glibc" and "." in version else -1
    return path if least is None or newest >= int(least[1]) else None


def install(dev: bool, torch_index: str | None) -> None:
    """Install build tools, torch from its own index if it has one, what hashes are known of, and the rest."""
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--no-input", "-c", str(LOCK)]
    # Build tools come from the lock too: what pip fetches for an isolated build is pinned by nobody.
    run_logged([*pip, "pip", "setuptools", "hatchling", "editables"], "installing build tools")
    if torch_index:
        torch = ["--no-deps", "--index-url", torch_index, f"torch=={locked('torch')}"]
        run_logged([*pip, *torch], "installing PyTorch")
    known = hashes(dev)
    if known:
        exact = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--no-input", "--no-deps"]
        exact += ["--no-build-isolation", "--require-hashes", "-r", str(known)]
        run_logged(exact, "installing dependencies by their hashes")
    project = f"{ROOT}[dev]" if dev else str(ROOT)
    run_logged([*pip, "--no-build-isolation", "-e", project], "installing dependencies")


def add_browser() -> None:
    """Install Chromium, in which tests open pages, where that may be; else say what is to be run by hand."""
    if any(shutil.which(name) for name in BROWSERS):
        return
    by_hand = "tests of pages need Chromium; run sudo apt-get install chromium, or install it another way"
    if not shutil.which("apt-get") or os.geteuid() != 0:
        print(f"set-up: {by_hand}")
        return
    print(f"set-up: about {BROWSER.download} MB to download, {BROWSER.disk} MB on disk (Chromium, for tests)")
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    try:
        run_logged([*apt, "update"], "looking for Chromium")
        run_logged([*apt, "install", "-y", "--no-install-recommends", "chromium"], "installing Chromium")
    except SetupError as error:
        print(f"set-up: {error}\nset-up: {by_hand}", file=sys.stderr)


def run_logged(command: list[str], what: str) -> None:
    """Run a step with its output in the log, showing that it moves.

    Raises:
        SetupError: it failed or took too long; its last words are printed first.
    """
    started = time.monotonic()
    live = sys.stdout.isatty()
    if not live:
        print(f"set-up: {what} ...", flush=True)
    with LOG.open("ab") as log:
        log.write(f"\n$ {' '.join(command)}\n".encode())
        log.flush()
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
        try:
            while process.poll() is None:
                seconds = time.monotonic() - started
                if seconds > PIP_LIMIT_SECONDS:
                    raise SetupError(f"{what} took more than {PIP_LIMIT_SECONDS:.0f} s; its log is {LOG}")
                if live:
                    print(f"\r\033[Kset-up: {what}, {seconds:.0f} s  {last_line()}", end="", flush=True)
                time.sleep(0.3)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(timeout=30)
            if live:
                print("\r\033[K", end="")
    if process.returncode:
        print("".join(LOG.read_text(errors="replace").splitlines(keepends=True)[-12:]), file=sys.stderr)
        raise SetupError(
            f"{what} failed (exit status {process.returncode}); the whole log is {LOG}: "
            "check the network and pip's settings, then run it again"
        )
    print(f"set-up: {what}: {time.monotonic() - started:.0f} s", flush=True)


def last_line() -> str:
    """Return the end of the log, cut to the rest of a terminal line."""
    lines = LOG.read_text(errors="replace").split("\n")
    words = next((line for line in reversed(lines) if line.strip()), "").strip()
    return words[: max(0, shutil.get_terminal_size().columns - 50)]


if __name__ == "__main__":
    sys.exit(main())
