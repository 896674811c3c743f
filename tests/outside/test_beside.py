"""Cases that need packages which the project does without: installed beside it, in folders of their own.

Triton's interpreter runs the GPU kernels on numbers of the CPU; ONNX Runtime runs exported models; Weights &
Biases keeps a run offline, and TensorBoard reads its files.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TRITON = ["triton==3.9.0"]
ONNX = ["onnx==1.23.2", "onnx_ir==1.1.0", "onnxscript==0.7.2", "onnxruntime==1.32.0"]
ONNX += ["flatbuffers==25.12.19", "ml_dtypes==0.6.0"]
# What W&B needs beyond the lock, and TensorBoard's reader of the files that tensorboardX writes.
TRACKERS = ["wandb==0.31.0", "cwevals==0.0.1b1", "distro==1.9.0", "httpcore==1.0.9", "httpx==0.28.1"]
TRACKERS += ["opentelemetry-exporter-http-transport==0.66b2", "opentelemetry-exporter-otlp-common==0.66b2"]
TRACKERS += ["opentelemetry-exporter-otlp-proto-common==1.45.2"]
TRACKERS += ["opentelemetry-exporter-otlp-proto-http==1.45.2", "tensorboard==2.21.0", "absl-py==2.5.1"]
LANGCHAIN = ["langchain-openai==1.7.4", "langchain-core==1.8.3", "langsmith==0.15.1", "distro==1.9.0"]
LANGCHAIN += ["uuid_utils==0.19.0", "httpx==0.28.1", "httpcore==1.0.9", "langchain-protocol==0.0.20"]
LANGCHAIN += ["orjson==3.13.0", "requests-toolbelt==1.0.0", "tenacity==9.2.1", "tiktoken==0.14.0"]

pytestmark = [pytest.mark.verify, pytest.mark.timeout(3600)]


def installed(packages: list[str]) -> str:
    """Return a folder with these packages, installed once."""
    folder = Path(sys.prefix) / "outside" / "+".join(packages)
    if not folder.is_dir():
        staging = folder.with_suffix(".partial")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(staging)]
        subprocess.run([*command, *packages], check=True, timeout=900)
        staging.rename(folder)
    return str(folder)


def run(cases: str, packages: list[str], tmp_path: Path, **environment: str) -> None:
    """Run the cases of a file with the packages at hand."""
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), installed(packages)])}
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--disable-warnings"]
    command += ["-c", str(tmp_path / "pytest.ini"), str(HERE / cases)]
    done = subprocess.run(command, env=os.environ | environment, timeout=3000, check=False)
    assert done.returncode == 0


@pytest.mark.skipif(platform.system() != "Linux", reason="Triton has wheels for Linux alone")
def test_kernels_in_tritons_interpreter(tmp_path: Path) -> None:
    run("kernel_cases.py", TRITON, tmp_path, TRITON_INTERPRET="1")


def test_models_in_onnx_runtime(tmp_path: Path) -> None:
    run("onnx_cases.py", ONNX, tmp_path)


def test_langchains_client(tmp_path: Path) -> None:
    run("langchain_cases.py", LANGCHAIN, tmp_path)


def test_trackers_of_others(tmp_path: Path) -> None:
    run("tracker_cases.py", TRACKERS, tmp_path)
