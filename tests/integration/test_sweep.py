"""Sweeps on a real local Ray: whole runs as trials, two at a time; failing, killed, continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from codex_ray.config import saved
from codex_ray.config.common import Cluster, Mlflow
from codex_ray.config.compose import compose
from codex_ray.config.sweep import Searching, Sweep
from codex_ray.config.train import Validation
from codex_ray.errors import CodexRayError
from codex_ray.track.metrics import read_metrics
from codex_ray.track.mlflow import PARENT_TAG
from codex_ray.train.messages import MessageReader
from codex_ray.tune.sweep import sweep
from tests.integration.training import QUIET, run_settings

pytestmark = [pytest.mark.integration]
RATE = "optimizer.learning_rate"
ONE_WORKER = Cluster(workers=1)


@pytest.fixture(scope="module")
def base(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration file of small runs on one worker, measured every other step."""
    folder = tmp_path_factory.mktemp("base")
    settings = run_settings(
        tiny_corpus,
        folder,
        "unused",
        cluster=ONE_WORKER,
        validation=Validation(every=2, rows=8),
        track=replace(QUIET, mlflow=Mlflow(enabled=True)),
    )
    plain = {key: value for key, value in saved.read(_written(settings, folder)).items()}
    for key in ("name", "runs", "resume"):
        plain.pop(key)
    (folder / "base.yaml").write_text(json.dumps(plain))  # JSON is YAML
    return folder / "base.yaml"


def _written(settings: Any, folder: Path) -> Path:
    saved.save(settings, folder / "whole.yaml")
    return folder / "whole.yaml"


def a_sweep(base: Path, runs: Path, space: dict[str, Any], **search: Any) -> Sweep:
    return Sweep(base_config=str(base), name="s", runs=str(runs), sweep=Searching(space=space, **search))


def test_trials_are_runs_and_one_that_fails_does_not_stop_the_rest(base: Path, tmp_path: Path) -> None:
    space = {RATE: [1e-3, 3e-3, 5e-3], "train.batch_tokens": [256, 100]}  # rows have 32 tokens
    only = [f"train.batch_tokens > 200 or {RATE} < 2e-3"]
    settings = a_sweep(base, tmp_path, space, search="grid", constraints=only, concurrent=1)
    result = sweep(settings)
    trials = json.loads((result.folder / "trials.json").read_text())
    assert [trial["state"] for trial in trials] == ["completed", "failed", "completed", "completed"]
    assert trials[1]["reason"].startswith("train.batch_tokens=100 cannot be divided")
    assert "\n" not in trials[1]["reason"]
    for number in (0, 2, 3):
        rows = read_metrics(result.folder / "trials" / f"trial_{number:04d}" / "metrics.jsonl")
        measured = [row for row in rows if "validation_loss" in row]
        assert [one["step"] for one in trials[number]["results"]] == [row["step"] for row in measured]
        assert trials[number]["results"][-1]["validation_loss"] == measured[-1]["validation_loss"]
    finals = {number: trials[number]["results"][-1]["validation_loss"] for number in (0, 2, 3)}
    best = min(finals, key=lambda number: finals[number])
    assert result.figures["best_trial"] == best and result.figures["failed"] == 1
    assert result.best is not None
    again = compose("pretrain", config_file=result.best)
    assert again.optimizer.learning_rate == trials[best]["values"][RATE] and again.name is None
    kept = [path.parent.name for path in (result.folder / "trials").glob("*/model")]
    assert kept == [f"trial_{best:04d}"]
    page = (result.folder / "report.html").read_text()
    assert "Settings and outcome" in page and "trial_0001" in page
    _assert_nested(tmp_path, 3)  # one had no run at all
    first, third, fourth = (_worker(result.folder / "trials" / f"trial_{n:04d}") for n in (0, 2, 3))
    assert first != third == fourth  # what failed took its process along
    with pytest.raises(CodexRayError, match="exists; continue it with resume=auto"):
        sweep(settings)


def _worker(run: Path) -> int:
    """The process that trained a run."""
    messages = MessageReader(run / "attempts" / "1").new()
    (worker,) = [int(item["pid"]) for item in messages if item["kind"] == "worker"]
    return worker


def _assert_nested(runs: Path, trials: int) -> None:
    """Every trial's run is below the sweep's in one store, which is the user's."""
    client = MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name == "codex_ray"]
    found = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in found if run.info.run_name == "s"]
    below = [run for run in found if run.data.tags.get(PARENT_TAG) == parent.info.run_id]
    assert len(below) == trials and not list(runs.glob("s/trials/mlflow.db"))


@pytest.mark.verify
def test_asha_gives_the_worst_up_and_says_so(base: Path, tmp_path: Path) -> None:
    settings = a_sweep(
        base,
        tmp_path,
        {RATE: [3e-3, 1e-6]},
        search="grid",
        scheduler="asha",
        reduction=2,
        concurrent=1,
        grace_tokens=4 * 256,
    )
    result = sweep(settings)
    trials = json.loads((result.folder / "trials.json").read_text())
    assert [trial["state"] for trial in trials] == ["completed", "given up"]
    assert trials[1]["results"][-1]["tokens"] == 4 * 256 and result.figures["best_trial"] == 0
    assert result.figures["given_up"] == 1 and "given up early" in (result.folder / "report.html").read_text()


@pytest.mark.verify
def test_a_killed_sweep_goes_on_elsewhere_and_no_ended_trial_runs_again(
    base: Path, tmp_path: Path, popen: Callable[..., subprocess.Popen[Any]]
) -> None:
    """Another machine sees the shared folder at another place and has a Ray of its own."""
    here, there = tmp_path / "here", tmp_path / "there"
    words = [f"base_config={base}", "name=s", f"{RATE}=1e-3,2e-3,3e-3"]
    words += ["sweep.search=grid", "sweep.concurrent=1", "train.steps=20"]
    command = [sys.executable, "jobs/sweep.py", *words]
    process = popen([*command, f"runs={here}"], start_new_session=True)
    trials = here / "s" / "trials.json"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        states = [one["state"] for one in json.loads(trials.read_text())] if trials.exists() else []
        running = here / "s" / "trials" / "trial_0001" / "metrics.jsonl"
        if states[:1] == ["completed"] and running.exists():
            break
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    before = json.loads(trials.read_text())
    assert before[0]["state"] == "completed" and len(before) < 3
    attempts = sorted(one.name for one in (here / "s" / "trials" / "trial_0000" / "attempts").iterdir())
    here.rename(there)
    subprocess.run([*command, f"runs={there}", "resume=must"], check=True, timeout=280)
    after = json.loads((there / "s" / "trials.json").read_text())
    assert [one["state"] for one in after] == ["completed"] * 3 and after[0] == before[0]
    assert attempts == sorted(
        one.name for one in (there / "s" / "trials" / "trial_0000" / "attempts").iterdir()
    )


@pytest.mark.verify
def test_ctrl_c_stops_trials_with_a_checkpoint(
    base: Path, tmp_path: Path, popen: Callable[..., subprocess.Popen[Any]]
) -> None:
    words = [f"base_config={base}", f"runs={tmp_path}", "name=s", f"{RATE}=1e-3,2e-3", "sweep.search=grid"]
    process = popen(
        [sys.executable, "jobs/sweep.py", *words, "train.steps=100000"], stderr=subprocess.PIPE, text=True
    )
    rows = tmp_path / "s" / "trials" / "trial_0000" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not rows.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=200)
    assert process.returncode == 130 and "resume=must" in told.strip().split("\n")[-1]
    assert list((tmp_path / "s" / "trials" / "trial_0000" / "checkpoints").glob("step_*"))
    assert {one["state"] for one in json.loads((tmp_path / "s" / "trials.json").read_text())} == {"stopped"}


@pytest.mark.verify
def test_a_population_hands_weights_optimizer_and_cursor_over_also_after_a_kill(
    base: Path, tmp_path: Path, popen: Callable[..., subprocess.Popen[Any]]
) -> None:
    words = [f"base_config={base}", f"runs={tmp_path}", "name=s", f"{RATE}=tag(log,interval(1e-6,1e-2))"]
    words += ["sweep.trials=3", "sweep.scheduler=pbt", "sweep.segment_steps=4", "train.steps=8"]
    words += ["optimizer.kind=adamw", "sweep.keep=3"]
    command = [sys.executable, "jobs/sweep.py", *words]
    process = popen(command, start_new_session=True)
    trials = tmp_path / "s" / "trials.json"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        found = json.loads(trials.read_text()) if trials.exists() else []
        if any(one["taken"] for one in found) and any(one["state"] == "running" for one in found):
            break
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    subprocess.run([*command, "resume=must"], check=True, timeout=400)
    found = json.loads(trials.read_text())
    assert [one["state"] for one in found] == ["completed"] * 3
    ((taker, taken),) = [(one, taken) for one in found for taken in one["taken"]]
    folders = [tmp_path / "s" / "trials" / f"trial_{number:04d}" for number in range(3)]
    rows = [{row["step"]: row for row in read_metrics(folder / "metrics.jsonl")} for folder in folders]
    assert all(sorted(one) == list(range(1, 9)) for one in rows)
    assert all(one[step]["batch"] == rows[0][step]["batch"] for one in rows for step in one)
    worst = max(rows, key=lambda one: float(one[4]["validation_loss"]))  # type: ignore[arg-type]
    assert taken["step"] == 4 and rows[taker["number"]] is worst
    ours, theirs = rows[taker["number"]][5], rows[taken["giver"]][5]
    # The next step's loss is that of the same weights on the same batch, and each has its own rate.
    assert ours["loss"] == theirs["loss"] and ours["learning_rate"] != theirs["learning_rate"]
    settings = compose("pretrain", config_file=folders[taker["number"]] / "config.yaml")
    share = theirs["learning_rate"] / found[taken["giver"]]["values"][RATE]  # type: ignore[operator]
    assert ours["learning_rate"] == pytest.approx(settings.optimizer.learning_rate * share)
    assert settings.optimizer.learning_rate == taker["values"][RATE] != taken["before"][RATE]
    _assert_handed_over(folders[taken["giver"]], folders[taker["number"]], 4)


def _assert_handed_over(giver: Path, taker: Path, step: int) -> None:
    """The taker's checkpoint of a step holds the giver's files, and says so."""
    theirs, ours = (
        json.loads((run / "checkpoints" / f"step_{step:08d}" / "manifest.json").read_text())
        for run in (giver, taker)
    )
    assert ours["files"] == theirs["files"] and ours["config_sha256"] != theirs["config_sha256"]
    assert ours["taken_from"] == {"run": giver.name, "step": step, "sha256": theirs["sha256"]}


@pytest.mark.verify
def test_a_trial_that_hangs_is_recorded_and_the_next_one_runs(
    base: Path, tmp_path: Path, popen: Callable[..., subprocess.Popen[Any]]
) -> None:
    words = [f"base_config={base}", f"runs={tmp_path}", "name=s", f"{RATE}=1e-3,2e-3", "sweep.search=grid"]
    words += ["sweep.concurrent=1", "sweep.stall_seconds=40", "train.steps=400"]
    process = popen([sys.executable, "jobs/sweep.py", *words], start_new_session=True)
    run = tmp_path / "s" / "trials" / "trial_0000"
    deadline = time.monotonic() + 200
    while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    worker = psutil.Process(_worker(run))
    worker.suspend()
    assert process.wait(300) == 0
    found = json.loads((tmp_path / "s" / "trials.json").read_text())
    assert [one["state"] for one in found] == ["failed", "completed"]
    assert "no line of metrics came within sweep.stall_seconds=40" in found[0]["reason"]
    assert not worker.is_running()
