"""Each check of a machine sees the thing that it looks at when that is broken, and names the remedy."""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import stat
from pathlib import Path

import pytest

from codex_ray import cli
from codex_ray.config.doctor import Doctor
from codex_ray.doctor import machine
from codex_ray.doctor.finding import FAILED, NOTE, OK, Finding, guarded, of_all_nodes
from codex_ray.doctor.links import meet_here, pairs
from codex_ray.sandbox import sandbox as sandbox_module


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Make programs by name, and hide all others."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)

    def add(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return add


def test_another_python_is_refused() -> None:
    assert machine.python((3, 12)).state == OK
    old = machine.python((3, 9))
    assert (old.state, old.remedy) == (
        FAILED,
        "install Python 3.11, 3.12 or 3.13 and run `make setup` with it",
    )


def test_a_package_of_another_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.packages().state == OK
    metadata = tmp_path / "peft-0.1.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = machine.packages()
    assert found.state == FAILED
    assert "peft 0.1 is not <0.22,>=0.21" in found.found


def test_code_that_came_with_a_job_needs_the_main_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    assert len(machine.requirements()) > 20
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "codex_ray" / "doctor" / "machine.py"))
    monkeypatch.setattr(importlib.metadata, "requires", nothing)
    assert [one.name for one in machine.requirements()] == list(machine.MAIN_PACKAGES)
    assert machine.packages().state == OK


def test_no_compiler_a_broken_one_and_no_ninja_are_told_apart(only) -> None:
    assert machine.compilers().found == "no C++ compiler"
    only("c++", "echo 'try.cc:1:10: fatal error: Python.h: No such file' >&2; exit 1")
    broken = machine.compilers()
    assert (broken.state, "fatal error: Python.h" in broken.found) == (NOTE, True)
    only("c++", "exit 0")
    assert machine.compilers().found == "c++ works, ninja is missing"
    only("ninja", "exit 0")
    assert machine.compilers().state == OK
    only("nvidia-smi", "echo NVIDIA H100 80GB HBM3")
    assert machine.compilers().found == "c++ and ninja work, nvcc is missing"


def test_a_gpu_that_pytorch_does_not_see_is_a_failure(only, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    only("nvidia-smi", "echo NVIDIA H100 80GB HBM3, 81559, 550.54")
    found = machine.gpus()
    assert found.state == FAILED
    assert "NVIDIA H100 80GB HBM3 (81559 MiB); PyTorch" in found.found
    assert "CUDA build" in found.remedy


def test_too_little_memory_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.memory().figures is not None
    monkeypatch.setattr(machine, "memory_bytes", lambda: {"total": 2**40, "limit": 2**30})
    found = machine.memory()
    assert (found.state, "of 1.0 GiB" in found.found) == (FAILED, True)


def test_a_full_disk_and_one_that_cannot_be_written_are_failures(tmp_path: Path) -> None:
    assert machine.disk(tmp_path / "not there yet", 2**20).state == OK
    full = machine.disk(tmp_path, 2**60)
    assert (full.state, "free, 1048576.0 TiB are wanted" in full.found) == (FAILED, True)
    unwritable = machine.disk(Path("/proc"), 0)
    assert (unwritable.state, "/proc cannot be written" in unwritable.found) == (FAILED, True)


def test_a_token_that_others_read_or_none_at_all_is_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("secret")
    path.chmod(0o644)
    variables = {"RAY_AUTH_TOKEN_PATH": str(path)}
    assert machine.token(variables).remedy == f"run `chmod 600 {path}`"
    path.chmod(0o600)
    assert machine.token(variables).state == OK
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.unlink()
    assert machine.token(variables).state == FAILED
    assert machine.token({"RAY_AUTH_MODE": "disabled"}).found == "RAY_AUTH_MODE=disabled"
    assert "secret" not in machine.token({"RAY_AUTH_TOKEN": "secret"}).found


def test_a_host_without_a_layer_of_the_sandbox_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.sandbox().state == OK
    monkeypatch.setattr(sandbox_module.Sandbox, "hear", lambda *_: {"missing": {"network": "not permitted"}})
    found = machine.sandbox()
    assert (found.state, "network (not permitted)" in found.found) == (NOTE, True)
    assert "allow user namespaces" in found.remedy


def test_a_taken_port_is_noted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert machine.ports({port: "a test"}).found == f"taken: {port} (a test)"
    assert machine.ports({port: "a test"}).state == OK


def test_an_interface_that_is_not_there_keeps_gloo_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    met = meet_here(2**20, 20.0)
    assert met.state == OK
    assert met.figures is not None
    (figures,) = met.figures.values()
    assert 0 < figures["seconds"] < 1
    assert figures["bytes_per_second"] > 1e6
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "none0")
    apart = meet_here(2**20, 20.0)
    assert (apart.state, "Unable to find address for: none0" in apart.found) == (FAILED, True)
    assert "GLOO_SOCKET_IFNAME" in apart.remedy


def test_every_node_meets_every_other_until_there_are_too_many() -> None:
    assert pairs(1) == [(0, 0)]
    assert pairs(3) == [(0, 1), (0, 2), (1, 2)]
    assert len(pairs(16)) == 120
    assert pairs(20)[-1] == (19, 0)
    assert len(pairs(20)) == 20


def test_a_cluster_that_has_ended_is_not_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    left = tmp_path / "ray_current_cluster"
    monkeypatch.setattr(machine, "LAST_CLUSTER", left)
    assert machine.address_of(Doctor()) is None
    with socket.create_server(("127.0.0.1", 0)) as head:
        left.write_text(f"127.0.0.1:{head.getsockname()[1]}\n")
        assert machine.address_of(Doctor()) == left.read_text().strip()
    assert machine.address_of(Doctor()) is None
    assert machine.address_of(Doctor(address="10.0.0.1:6379")) == "10.0.0.1:6379"


def test_a_head_that_does_not_answer_is_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    assert cli.main(["doctor", str(tmp_path), f"address={address}", "least_free_bytes=0"]) == 1
    assert f"nothing answers at {address} (" in capsys.readouterr().out
    assert machine.silent("auto") == machine.silent("ray://somewhere:10001") == ""


def test_a_check_that_breaks_is_a_line_too() -> None:
    found = guarded("disk", lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert (found.state, found.found) == (FAILED, "ZeroDivisionError: division by zero")


def test_nodes_share_a_line_until_one_differs() -> None:
    good = Finding("disk", OK, "free: 9 GiB")
    assert of_all_nodes({"a": [good], "b": [good]})[0].found == "free: 9 GiB (all nodes)"
    bad = Finding("disk", FAILED, "full", "free some space")
    (line,) = of_all_nodes({"a": [good], "b": [bad]})
    assert (line.state, line.found, line.remedy) == (FAILED, "full (b)", "free some space")


def test_the_verb_prints_lines_or_json_and_fails_with_a_sentence(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(machine, "LAST_CLUSTER", tmp_path / "none")
    monkeypatch.setattr(machine, "_SMALLEST_MEMORY", 0)
    assert cli.main(["doctor", str(tmp_path), "least_free_bytes=0", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    names = ["python", "packages", "compilers", "gpus", "memory", "disk", "token", "sandbox", "plugins"]
    names += ["ports", "gloo"]
    assert [finding["name"] for finding in told["findings"]] == names
    assert (told["format_version"], told["failed"], told["address"]) == (1, 0, None)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert cli.main(["doctor", str(tmp_path), "least_free_bytes=0"]) == 1
    out, err = capsys.readouterr()
    assert "1 of 11 checks failed (token)" in err
    (line,) = [line for line in out.splitlines() if line.startswith("FAILED")]
    assert "RAY_AUTH_MODE=disabled; unset RAY_AUTH_MODE" in line
    assert os.listdir(tmp_path) == []  # noqa: PTH208
