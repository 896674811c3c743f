"""Measuring matrix products, choosing the precision, the table of data sheets, the sampler."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch

from codex_ray.errors import ConfigError
from codex_ray.track import SystemSampler
from codex_ray.track.environment import nvidia_smi
from codex_ray.track.hardware import choose_dtype, data_sheet_flops, measure_matmul, peak_flops
from codex_ray.track.system import newest_samples, sample

FAKE = """#!/bin/sh
if [ "$1" = "--query-gpu=utilization.gpu,memory.used,power.draw,temperature.gpu" ]; then
  printf '37, 1024, 70.5, 41\\n0, 3, [N/A], 30\\n'
else
  sleep 60
fi
"""


def test_a_measured_rate_is_plausible_and_changes_nothing() -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    began = time.perf_counter()
    rate = measure_matmul("float32", 1, seconds=0.05)
    assert 1e8 < rate < 1e14
    assert time.perf_counter() - began < 5
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state), "seeded weights must not depend on a measurement"


def test_the_chosen_dtype_is_the_faster_one() -> None:
    name, rates = choose_dtype("cpu", 1)
    assert set(rates) == {"float32", "bfloat16"}
    assert name == ("bfloat16" if rates["bfloat16"] >= 1.25 * rates["float32"] else "float32")


def test_peak_on_a_cpu_is_measured() -> None:
    assert peak_flops("cpu", "float32", 1, measured=5e10) == (5e10, "measured matmul")
    flops, source = peak_flops("cpu", "float32", 1)
    assert flops > 1e8 and source == "measured matmul"


def test_cuda_without_a_card_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="set device=cpu"):
        peak_flops("cuda", "bfloat16", 1)


@pytest.mark.parametrize(
    ("card", "tera"),
    [
        ("NVIDIA H200", 989.5),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 5090", 209.5),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 5090 D", None),
        ("NVIDIA A10", None),
        ("NVIDIA H200 MIG 1g.18gb", None),
    ],
)
def test_cards_by_name(card: str, tera: float | None) -> None:
    assert data_sheet_flops(card) == (None if tera is None else tera * 1e12)


def test_a_sample_of_this_machine(tmp_path: Path) -> None:
    one = sample(tmp_path)
    assert 0 <= one["cpu_percent"] <= 100
    assert 0 < one["rss_bytes"] < one["memory_total_bytes"]
    assert 0 < one["disk_free_bytes"] <= shutil.disk_usage(tmp_path).total


def test_the_sampler_writes_lines_and_stops_promptly(tmp_path: Path) -> None:
    path = tmp_path / "system_10.0.0.7.jsonl"
    with SystemSampler(path, interval_seconds=0.1):
        (tmp_path / "written").write_bytes(os.urandom(2**20))
        time.sleep(0.5)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) >= 2
    assert all(line["network_received_bytes_per_second"] >= 0 for line in lines)
    with SystemSampler(path, interval_seconds=600):
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert not [thread for thread in threading.enumerate() if thread.name == "system-sampler"]
    assert len(path.read_text().splitlines()) == len(lines) + 1
    with path.open("a") as stream:
        stream.write('{"time": 1')  # a torn last line
    (node,) = newest_samples(tmp_path)
    newest = newest_samples(tmp_path)
    assert node == "10.0.0.7" and newest[node]["time"] > lines[-1]["time"]
    with path.open("a") as stream:
        stream.write('{"time": 12, "cpu_\n')  # another process went on behind it
    (tmp_path / "system_folder.jsonl").mkdir()  # cannot be read
    assert newest_samples(tmp_path) == newest


def test_a_sampler_without_an_interval_samples_nothing(tmp_path: Path) -> None:
    with SystemSampler(tmp_path / "system_n.jsonl", interval_seconds=0):
        time.sleep(0.05)
    assert list(tmp_path.iterdir()) == [] and newest_samples(tmp_path) == {}


def test_a_sampler_that_cannot_write_warns_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with SystemSampler(tmp_path / "gone" / "system_n.jsonl", interval_seconds=0.05):
        time.sleep(0.4)
    assert len(caplog.records) == 1 and "no longer sampled" in caplog.text


def test_gpu_figures_and_a_hanging_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(FAKE)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    one = sample(tmp_path)
    assert (
        one["gpu0_utilization_gpu"] == 37
        and one["gpu0_memory_used"] == 1024
        and one["gpu0_power_draw"] == 70.5
    )
    assert one["gpu1_temperature_gpu"] == 30 and "gpu1_power_draw" not in one
    began = time.monotonic()
    assert nvidia_smi("name", seconds=0.3) == []
    assert time.monotonic() - began < 5
