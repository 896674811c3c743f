"""A run as those see it who watch it: a slow rank is named, it is attached to, the webhook hears of it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codex_ray.config.common import Alerts, Track
from codex_ray.config.followed import Evaluation, FollowedTask
from codex_ray.config.model import Model, Residual
from codex_ray.config.train import Training, Validation
from codex_ray.runs.state import states
from codex_ray.track.metrics import read_metrics, read_run
from codex_ray.track.progress import Progress
from codex_ray.train.driver import pretrain
from codex_ray.train.messages import MessageReader
from tests.integration.training import LENGTH, QUIET, assert_same_end, run_settings
from tests.unit.track.test_alerts import Webhook, webhook  # noqa: F401 (a fixture)

pytestmark = [pytest.mark.integration, pytest.mark.verify, pytest.mark.usefixtures("ray_session")]
STEPS = 70


@contextmanager
def slowed(run: Path, rank: int) -> Iterator[None]:
    """Let a rank of the run's first start run for a quarter of the time."""
    done = threading.Event()

    def slow() -> None:
        pid = None
        while not done.wait(0.2) and pid is None:
            found = MessageReader(run / "attempts" / "1").new()
            pid = next((m["pid"] for m in found if m["kind"] == "worker" and m["rank"] == rank), None)
            if pid is not None and not (run / "metrics.jsonl").exists():
                pid = None  # not while it starts
        with suppress(ProcessLookupError):
            while pid is not None and not done.is_set():
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.015)
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.005)

    thread = threading.Thread(target=slow)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_a_watched_run(tiny_corpus: Path, tmp_path: Path, webhook: Webhook) -> None:  # noqa: F811
    alerts = Alerts(url=webhook.url, on=["end", "failure", "stall"])
    track: Track = replace(QUIET, alerts=alerts)
    wide = Model(
        hidden_size=64, intermediate_size=256, layers=4, heads=4, key_value_heads=2, head_size=16,
        residual=Residual(streams=2),
    )  # fmt: skip
    settings = run_settings(
        tiny_corpus,
        tmp_path,
        "watched",
        model=wide,
        train=Training(steps=STEPS, batch_tokens=64 * LENGTH),
        track=track,
    )
    run = tmp_path / "watched"
    attached: list[subprocess.Popen[str]] = []

    def attach() -> None:
        deadline = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        command = [sys.executable, "-m", "codex_ray", "runs", "attach", str(run), "progress=plain"]
        attached.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        assert states([run]) == {run: "running"}

    follower = threading.Thread(target=attach)
    follower.start()
    told = io.StringIO()
    with slowed(run, rank=1), Progress("plain", errors=told) as progress:
        result = pretrain(settings, progress)
    follower.join()
    assert result.completed
    shown = attached[0].communicate(timeout=60)[1]
    assert attached[0].returncode == 0 and "run watched: completed" in shown
    for text in (told.getvalue(), shown):
        assert "rank 1 on " in text and "is slow: until step " in text, text
        assert "rank 0 on " not in text
    (body,) = webhook.bodies
    assert (body["kind"], body["step"]) == ("end", STEPS)
    assert body["sentence"] == f"completed at step {STEPS}"
    assert "s3cret" not in "".join(path.read_text() for path in run.glob("*.*") if path.suffix != ".png")


def test_validation_beside_training_joins_its_steps(tiny_corpus: Path, tmp_path: Path) -> None:
    together = run_settings(tiny_corpus, tmp_path, "together", validation=Validation(every=4, rows=8))
    beside = replace(
        together,
        name="beside",
        validation=replace(together.validation, asynchronous=True),
        evaluation=Evaluation(
            tasks={"sums": FollowedTask(path="arithmetic")}, every_steps=4, rows=4, max_new_tokens=4,
            asynchronous=True,
        ),
    )  # fmt: skip
    runs = [pretrain(settings).run for settings in (together, beside)]
    measured = [
        {row["step"]: row["validation_loss"] for row in read_run(run) if "validation_loss" in row}
        for run in runs
    ]
    assert measured[0].keys() == {4, 8, 12}
    later = [row["step"] for row in read_metrics(runs[1] / "validation.jsonl")]
    assert later and {12, *later} == measured[1].keys()  # a slow spare worker may have missed step 8
    for step, loss in measured[1].items():
        assert loss == pytest.approx(measured[0][step], rel=1e-5)
    assert_same_end(runs[1], runs[0])
    assert not (runs[0] / "validation.jsonl").exists()
    lines: list[Any] = read_metrics(runs[1] / "evaluation.jsonl")
    asked = [line["step"] for line in lines]
    assert asked[0] == 0 and asked[-1] == 12 and set(asked) <= {0, 4, 8, 12} and len(asked) > 2
    assert [line["step"] for line in lines if line.get("apart")] == asked[1:-1]
    assert [row["step"] for row in read_run(runs[1]) if "evaluation/sums" in row] == asked[1:]
