"""Workers that train trial after trial: nothing of one is left in the next, nor of a sweep behind."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from codex_ray.cluster.session import open_session
from codex_ray.config import saved
from codex_ray.config.common import Cluster
from codex_ray.config.compose import compose
from codex_ray.config.sweep import Searching, Sweep
from codex_ray.config.train import Pretrain, Training
from codex_ray.track.metrics import read_metrics
from codex_ray.train.driver import pretrain
from codex_ray.train.messages import MessageReader
from codex_ray.tune.sweep import sweep
from tests.integration.training import GLOBAL_ROWS, LENGTH, assert_same_end, run_settings

pytestmark = [pytest.mark.integration, pytest.mark.verify]
RATE = "optimizer.learning_rate"


def _base(corpus: Path, folder: Path, steps: int) -> Path:
    settings = run_settings(
        corpus,
        folder,
        "unused",
        cluster=Cluster(workers=1),
        train=Training(steps=steps, batch_tokens=GLOBAL_ROWS * LENGTH),
    )
    saved.save(settings, folder / "whole.yaml")
    plain = {key: value for key, value in saved.read(folder / "whole.yaml").items()}
    for key in ("name", "runs", "resume"):
        plain.pop(key)
    (folder / "base.yaml").write_text(json.dumps(plain))  # JSON is YAML
    return folder / "base.yaml"


def _workers(run: Path) -> list[int]:
    """The processes that trained a run, each time that they began."""
    attempts = sorted((run / "attempts").iterdir())
    messages = [message for attempt in attempts for message in MessageReader(attempt).new()]
    return [int(message["pid"]) for message in messages if message["kind"] == "worker"]


def _kill_a_worker(run: Path, after: int) -> None:
    """Kill what trains a run, once it has written down so many steps."""
    rows, deadline = run / "metrics.jsonl", time.monotonic() + 250
    while time.monotonic() < deadline:
        if rows.exists() and len(read_metrics(rows)) >= after:
            os.kill(_workers(run)[-1], signal.SIGKILL)
            return
        time.sleep(0.02)


def test_workers_train_trial_after_trial_also_after_one_is_killed(tiny_corpus: Path, tmp_path: Path) -> None:
    base = _base(tiny_corpus, tmp_path, steps=80)
    rates = [1e-3, 2e-3, 3e-3, 4e-3]
    searching = Searching(space={RATE: rates}, search="grid", concurrent=1, keep=4)
    settings = Sweep(base_config=str(base), name="s", runs=str(tmp_path), sweep=searching)
    runs = [tmp_path / "s" / "trials" / f"trial_{number:04d}" for number in range(4)]
    killer = threading.Thread(target=_kill_a_worker, args=[runs[1], 20])
    with open_session(Cluster(workers=1, logical_cpus=8)):
        killer.start()
        result = sweep(settings)
        killer.join()
        _assert_nothing_held()
        plain: Pretrain = compose("pretrain", config_file=base)
        alone = replace(
            plain, runs=str(tmp_path), name="alone", optimizer=replace(plain.optimizer, learning_rate=4e-3)
        )
        pretrain(alone)
    assert result.figures["completed"] == 4
    ((first,), killed, (third,), (fourth,)) = [_workers(run) for run in runs]
    assert killed == [first, third] and fourth == third != first
    told = [message["kind"] for message in MessageReader(runs[1] / "attempts" / "1").new()]
    assert "failure" in told  # in its own run
    others = [MessageReader(run / "attempts" / "1").new() for run in runs if run is not runs[1]]
    assert not any(message["kind"] == "failure" for messages in others for message in messages)
    assert_same_end(runs[3], tmp_path / "alone")


def test_trials_that_fail_or_differ_in_what_processes_hold_have_workers_of_their_own(
    tiny_corpus: Path, tmp_path: Path
) -> None:
    base = _base(tiny_corpus, tmp_path, steps=8)
    space = {RATE: [1e30, 1e-3], "deepspeed.stage": [1, 2]}
    searching = Searching(space=space, search="grid", concurrent=1, keep=4)
    with open_session(Cluster(workers=1, logical_cpus=8)):
        result = sweep(Sweep(base_config=str(base), name="s", runs=str(tmp_path), sweep=searching))
        _assert_nothing_held()
    found = json.loads((result.folder / "trials.json").read_text())
    assert [trial["state"] for trial in found] == ["failed", "failed", "completed", "completed"]
    assert all("not finite" in trial["reason"] for trial in found[:2])
    workers = [_workers(tmp_path / "s" / "trials" / f"trial_{number:04d}")[-1] for number in range(4)]
    assert len(set(workers)) == 4


def _assert_nothing_held() -> None:
    """No worker, no actor and no placement group of the sweep's is left, and no key of its jobs."""
    import ray
    from ray.experimental.internal_kv import _internal_kv_list
    from ray.util import placement_group_table

    from codex_ray.train.reuse import NAMESPACE

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        groups = [one["state"] for one in placement_group_table().values()]
        names = [" ".join(one.cmdline()) for one in psutil.Process().children(recursive=True)]
        held = [name for name in names if "RayTrainWorker" in name or "TrainController" in name]
        if not held and all(state == "REMOVED" for state in groups):
            break
        time.sleep(0.5)
    assert not held and all(state == "REMOVED" for state in groups), (held, groups)
    assert not _internal_kv_list("", namespace=NAMESPACE)
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"]
