"""report.html: self-contained, escaped, complete, and quick on long runs."""

from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image

from codex_ray.errors import CodexRayError
from codex_ray.track import MetricsWriter, RunFolder, write_environment, write_report
from codex_ray.track.plots import downsample, smooth
from codex_ray.track.report import _samples_on_the_way
from tests.unit.track.pages import Page


def write_run(folder: Path, steps: int) -> None:
    with MetricsWriter(folder) as writer:
        for step in range(1, steps + 1):
            row: dict[str, object] = {"step": step, "batch": step, "tokens": step * 4096, "time": 1e9 + step}
            row |= {"loss": 2 + 5 * math.exp(-step / 30), "grad_norm": 1 + 40 / step, "learning_rate": 4e-3}
            row |= {"tokens_per_second": 24_000.0, "step_seconds": 0.2, "data_seconds": 0.01, "mfu": 0.4}
            if step == 3:
                row["loss"] = float("nan")
            if step % 10 == 0:
                row |= {"validation_loss": 2.5, "validation_bits_per_byte": 1.2}
                row |= {"mixing/forward_gain": 1.01, "mixing/backward_gain": 1.02}
            writer.write(row)


def test_a_whole_run(tmp_path: Path) -> None:
    write_run(tmp_path, 100)
    write_environment(tmp_path, {"seed": 1234}, mlflow_uri="https://me:secret@host/x")
    settings = {"seed": 1234, "model": {"residual": {"kind": "mhc"}}, "uri": "https://me:secret@host"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    summary = {
        "bits_per_byte": 1.1743,
        "train_seconds": 280.0,
        "parameters": 3_123_456,
        "mfu": 0.4123,
        "next": "do <it>",
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    samples = [{"prompt": "def <f>():", "completion": "\n    return '&amp;'"}]
    (tmp_path / "samples.json").write_text(json.dumps(samples))
    RunFolder(tmp_path, 1).record_error(
        "worker", 1, 40, "backward", ValueError("bad <script>alert(1)</script>")
    )
    path = write_report(tmp_path)
    text = path.read_text()
    page = Page(text)
    assert path == tmp_path / "report.html"
    assert page.references == [reference for reference in page.references if reference.startswith("#")]
    assert not re.search(r"@import|url\((?!#)|<script|<link|<img", text)
    assert "://" not in text.replace("https://***@host", "")
    assert "secret@" not in text and "me:secret" not in text
    assert "script" not in page.tags and "bad <script>alert(1)</script>" in page.text
    for said in (
        "1.174",
        "4 min 40 s",
        "3.12 M",
        "41.2%",
        "do <it>",
        "def <f>():",
        "return '&amp;'",
        "residual.kind",
    ):
        assert said in page.text, said
    for title in (
        "Loss",
        "Learning rate",
        "Gradient norm",
        "Tokens per second",
        "Hyper-connection gains",
        "Data wait, %",
    ):
        assert title in page.text, title
    assert page.tags.count("svg") == 7
    assert "Steps without a finite loss: 1." in page.text
    assert "role worker, rank 1, step 40, phase backward" in page.text
    assert "prefers-color-scheme: dark" in text and "var(--series-1)" in text
    assert not re.search(r"#0[0-9a-f]{5}\b", "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))), (
        "placeholders"
    )
    with Image.open(tmp_path / "loss.png") as image:
        assert image.width >= 1000
        assert len(image.convert("RGB").getcolors(maxcolors=1 << 20) or []) > 10


def test_an_empty_folder_still_has_a_report(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path).read_text())
    assert tmp_path.name in page.text and "svg" not in page.tags
    assert not (tmp_path / "loss.png").exists()


def test_a_stopped_run_shows_what_it_measured(tmp_path: Path) -> None:
    write_run(tmp_path, 25)
    page = Page(write_report(tmp_path).read_text())
    assert "24,000" in page.text and "validation loss" in page.text


def test_samples_on_the_way_are_shown_for_a_few_steps(tmp_path: Path) -> None:
    lines = [
        {"step": step, "prompt": prompt, "completion": f"{prompt} at {step} <b>"}
        for step in [*range(10, 110, 10), 50, 100]  # those of two steps were written again
        for prompt in ("one", "two")
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "samples.jsonl").write_text(text + '{"step": 110, "pro')
    page = Page(write_report(tmp_path).read_text())
    for step in (10, 40, 70, 100):
        assert page.text.count(f"one at {step} <b>") == page.text.count(f"step {step}\ntwo") == 1
    assert "at 50" not in page.text and "110" not in page.text


def test_long_runs_stay_small_and_quick(tmp_path: Path) -> None:
    write_run(tmp_path, 50_000)
    began = time.monotonic()
    path = write_report(tmp_path)
    assert time.monotonic() - began < 20
    assert path.stat().st_size < 600_000


def test_samples_of_any_text_are_read_past_a_torn_line(tmp_path: Path) -> None:
    sample = {"step": 5, "prompt": "once", "completion": "one\u2028two\x85three \u00e9"}
    line = json.dumps(sample, ensure_ascii=False).encode()
    torn = json.dumps({**sample, "step": 6}, ensure_ascii=False).encode()[:-3]
    (tmp_path / "samples.jsonl").write_bytes(line + b"\n" + torn)
    assert _samples_on_the_way(tmp_path / "samples.jsonl") == [sample]


def test_damaged_inputs_are_named(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(CodexRayError, match=r"summary .*summary.json is damaged"):
        write_report(tmp_path)


def test_downsampling_keeps_spikes_and_ends() -> None:
    values = [math.sin(index / 500) for index in range(100_000)]
    values[77_777], values[12_345] = 50.0, -50.0
    steps, kept = downsample(range(100_000), values, 800)
    assert len(steps) <= 802 and steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, 99_999)
    assert max(kept) == 50.0 and min(kept) == -50.0
    assert all(values[int(step)] == value for step, value in zip(steps, kept, strict=True))
    assert downsample([1, 2], [3, 4]) == ([1, 2], [3, 4])


def test_smoothing_does_not_lag_or_drift() -> None:
    line = [float(index) for index in range(1000)]
    smoothed = smooth(line)
    assert smoothed[:900] == pytest.approx(line[:900])
    assert smooth([7.0] * 50) == pytest.approx([7.0] * 50)
    assert smooth([]) == []


def test_sources_have_a_table_of_what_was_used(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        for step in (1, 2, 3):
            used = {"source/code/rows": 20 * step, "source/code/epochs": 0.5 * step}
            used |= {"source/a<b/rows": 12 * step, "source/a<b/epochs": 2.25 * step}
            held_out = {"validation/code/loss": 1.25} if step == 2 else {}
            writer.write({"step": step, "loss": 2.0, **used, **held_out})
    (tmp_path / "summary.json").write_text(json.dumps({"loss": 2.0, "source/code/rows": 60}))
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "<th>code</th><td>60</td><td>1.5</td><td>1.25</td>" in text
    assert "<th>a&lt;b</th><td>36</td><td>6.75</td><td></td>" in text
    assert "source/code" not in text
    Page(text)
