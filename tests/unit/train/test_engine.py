"""What the engine imports, and what it leaves out."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import subprocess, sys, torch
compiler, start = torch.compile, subprocess.Popen.__init__
def refuse(self, command, *rest, **options):
    raise AssertionError(f"started {command}")
subprocess.Popen.__init__ = refuse
from codex_ray.train.engine import import_deepspeed
deepspeed = import_deepspeed("cpu")
deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)
subprocess.Popen.__init__ = start
left = {"mlflow", "torch._inductor.compile_fx"} & sys.modules.keys()
assert not left, left
assert torch.compile is compiler
import mlflow
"""
ALONE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}


def test_deepspeed_is_imported_without_mlflow_and_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ALONE.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
