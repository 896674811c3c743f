"""The set-up: what it decides and refuses, without installing anything."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tools import bootstrap


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the set-up work on a small checkout of its own, in which installing takes no time."""
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "constraints.txt").write_text("# a lock\ntorch==2.13.0\n")
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'some'\n")
    venv = tmp_path / ".venv"
    for name, value in {
        "ROOT": tmp_path,
        "VENV": venv,
        "LOCK": tmp_path / "requirements" / "constraints.txt",
        "STAMP": venv / "codex_ray.stamp",
        "UNFINISHED": venv / "codex_ray.unfinished",
        "LOG": venv / "setup.log",
    }.items():
        monkeypatch.setattr(bootstrap, name, value)
    monkeypatch.setenv("TORCH_INDEX_URL", "https://example.invalid/whl/cpu")
    return tmp_path


@pytest.fixture
def installed(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, str | None]]:
    """Record the installations asked for, in place of running pip."""
    asked: list[tuple[bool, str | None]] = []

    def run_logged(command: list[str], what: str) -> None:
        assert command[1:3] == ["-m", "venv"], what
        (checkout / ".venv" / "bin").mkdir(parents=True)
        python = checkout / ".venv" / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)

    monkeypatch.setattr(bootstrap, "run_logged", run_logged)
    monkeypatch.setattr(bootstrap, "install", lambda dev, url: asked.append((dev, url)))
    return asked


def test_a_set_up_is_done_once_and_again_when_the_lock_changes(
    checkout: Path, installed: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    bootstrap.set_up(dev=False)
    assert "MB to download" in capsys.readouterr().out
    bootstrap.set_up(dev=False)
    assert len(installed) == 1
    bootstrap.LOCK.write_text("torch==2.13.1\n")
    bootstrap.set_up(dev=False)
    assert installed == [(False, "https://example.invalid/whl/cpu")] * 2


def test_tools_are_added_to_an_environment_and_never_taken_away(checkout: Path, installed: list[Any]) -> None:
    bootstrap.set_up(dev=False)
    bootstrap.set_up(dev=True)
    bootstrap.set_up(dev=False)
    assert [dev for dev, _ in installed] == [False, True]


def test_an_unfinished_environment_is_made_afresh(checkout: Path, installed: list[Any]) -> None:
    bootstrap.set_up(dev=False)
    left_over = checkout / ".venv" / "half-written"
    left_over.touch()
    bootstrap.UNFINISHED.touch()
    bootstrap.STAMP.unlink()
    bootstrap.set_up(dev=False)
    assert len(installed) == 2
    assert not left_over.exists()
    assert not bootstrap.UNFINISHED.exists()


def test_a_failing_installation_leaves_no_stamp(
    checkout: Path, installed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(dev: bool, url: str | None) -> None:
        raise bootstrap.SetupError("no network")

    monkeypatch.setattr(bootstrap, "install", fail)
    with pytest.raises(bootstrap.SetupError, match="no network"):
        bootstrap.set_up(dev=False)
    assert bootstrap.UNFINISHED.exists()
    assert not bootstrap.STAMP.exists()


def test_a_small_disk_is_refused_with_the_numbers(
    checkout: Path, installed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**10, 0, 1_500_000_000))
    needed = sum(bootstrap.RUNTIME)
    with pytest.raises(bootstrap.SetupError, match=rf"1500 MB free and the set-up needs {needed} MB"):
        bootstrap.set_up(dev=False)
    assert installed == []


def test_a_failed_step_shows_its_last_words_and_its_log(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / ".venv").mkdir()
    command = [sys.executable, "-c", "print('no such package'); raise SystemExit(3)"]
    with pytest.raises(bootstrap.SetupError, match=r"a step failed \(exit status 3\).*setup\.log"):
        bootstrap.run_logged(command, "a step")
    assert "no such package" in capsys.readouterr().err


def test_an_interpreter_of_a_wrong_version_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "VERSIONS", ("3.0",))
    with pytest.raises(bootstrap.SetupError, match=r"3\.12 or 3\.13 is needed and this is 3\."):
        bootstrap.find_python()


def test_an_interpreter_without_venv_is_refused_with_the_package_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = ".".join(map(str, sys.version_info[:2]))
    monkeypatch.setattr(
        bootstrap, "python_version", lambda command, needs="sys": version if needs == "sys" else None
    )
    with pytest.raises(bootstrap.SetupError, match=f"apt install python{version}-venv"):
        bootstrap.find_python()


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Serve one page, and one that never answers."""
    release = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/silent":
                release.wait(20)
                return
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    release.set()
    server.shutdown()
    server.server_close()


def test_an_index_counts_only_if_it_answers_in_time(silent_server: str) -> None:
    assert bootstrap.answers(f"{silent_server}/torch/", seconds=5.0)
    started = time.monotonic()
    assert not bootstrap.answers(f"{silent_server}/silent", seconds=0.3)
    assert time.monotonic() - started < 3
    assert not bootstrap.answers("http://127.0.0.1:9/", seconds=1.0)


def test_two_set_ups_at_once_are_refused(checkout: Path) -> None:
    script = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(bootstrap.LOCK)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        program = (
            Path(bootstrap.__file__)
            .read_text()
            .replace("ROOT = Path(__file__).resolve().parent.parent", f"ROOT = Path({str(checkout)!r})")
        )
        second = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    finally:
        holder.communicate("\n", timeout=20)
    assert second.returncode == 1
    assert "another set-up" in second.stderr


@pytest.mark.parametrize(
    ("there", "user", "asked"),
    [(("apt-get",), 0, 2), (("apt-get", "chromium"), 0, 0), (("apt-get",), 1000, 0)],
)
def test_chromium_is_installed_where_it_is_missing_and_may_be(
    there: tuple[str, ...],
    user: int,
    asked: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(shutil, "which", lambda name: name if name in there else None)
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: user)
    monkeypatch.setattr(bootstrap, "run_logged", lambda command, what: ran.append(command))
    bootstrap.add_browser()
    assert len(ran) == asked and all(command[2] == "apt-get" for command in ran)
    by_hand = "sudo apt-get install chromium" in capsys.readouterr().out
    assert by_hand == (not asked and "chromium" not in there)


def test_a_browser_that_cannot_be_had_does_not_end_the_set_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(command: list[str], what: str) -> None:
        raise bootstrap.SetupError(f"{what} failed")

    monkeypatch.setattr(shutil, "which", lambda name: name if name == "apt-get" else None)
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 0)
    monkeypatch.setattr(bootstrap, "run_logged", refuse)
    bootstrap.add_browser()
    assert "sudo apt-get install chromium" in capsys.readouterr().err


def test_hashes_are_for_the_platform_that_they_were_made_on(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "python_version", lambda *_, **__: "3.11")
    assert bootstrap.hashes(dev=True) is None
    place = bootstrap.hash_file(True, "3.11")
    assert place.name.endswith("-cp311.dev.txt") and place != bootstrap.hash_file(False, "3.11")
    place.write_text("# Hashes of the files, glibc 2.28 or newer\nsome==1 --hash=sha256:00\n")
    for library, taken in ((("glibc", "2.28"), True), (("glibc", "2.17"), False), (("", ""), False)):
        monkeypatch.setattr(bootstrap.platform, "libc_ver", lambda library=library: library)
        assert (bootstrap.hashes(dev=True) == place) is taken
    monkeypatch.setattr(bootstrap, "python_version", lambda *_, **__: "3.13")
    assert bootstrap.hashes(dev=True) is None


def test_pip_is_held_to_hashes_where_there_are_any(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(bootstrap, "run_logged", lambda command, what: asked.append(command))
    monkeypatch.setattr(bootstrap, "hashes", lambda dev: checkout / "hashes.txt" if dev else None)
    bootstrap.install(dev=True, torch_index=None)
    assert ["--require-hashes", "-r", str(checkout / "hashes.txt")] == asked[1][-3:]
    assert "--no-deps" in asked[1] and asked[-1][-1] == f"{checkout}[dev]"
    asked.clear()
    bootstrap.install(dev=False, torch_index=None)
    assert not any("--require-hashes" in command for command in asked)
