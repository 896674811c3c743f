"""``discover`` through the whole stack: a tiny model, a tiny problem, stopped and gone on with."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from codex_ray.config.common import Device
from codex_ray.config.discover import Ablation, CompareSearches, Discover, Learn, Search
from codex_ray.config.rollout import Rollouts
from codex_ray.config.train import Checkpoints, DeepSpeed, Lora, Optimizer, Schedule, Training, Validation
from codex_ray.discover.ablation import ablation
from codex_ray.discover.compare import compare
from codex_ray.discover.run import Discovery, discover
from codex_ray.errors import CodexRayError
from codex_ray.track.metrics import read_metrics
from tests.faults import Fault, armed, fail_at
from tests.integration.test_finetune import ours, tokenizer
from tests.integration.training import QUIET, TWO_WORKERS, assert_same_end

__all__ = ["ours", "tokenizer"]
pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_session")]
ROLLOUTS = Rollouts(actors=2, max_new_tokens=12, slots=8, task_sequences=8, stop=[" ", "e"])
SAME = ("step", "reference_kl", "entropy", "reward")


def wanted(model: Path, runs: Path, name: str, **changes: Any) -> Discover:
    settings = Discover(
        problem="tests.unit.discover.climb.Climb",
        model=str(model), runs=str(runs), name=name, resume="auto",
        compute=Device(device="cpu", dtype="float32"),
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.0, clip_norm=0.0),
        schedule=Schedule(kind="constant", warmup_steps=0),
        deepspeed=DeepSpeed(stage=1),
        train=Training(steps=4),
        checkpoints=Checkpoints(every=2),
        validation=Validation(every=0, rows=0),
        search=Search(groups=3, samples=4),
        learn=Learn(micro_batch_tokens=256),
        rollout=ROLLOUTS, cluster=TWO_WORKERS, track=QUIET,
    )  # fmt: skip
    return replace(settings, **changes)


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [dict(row) for row in read_metrics(run / "metrics.jsonl")]


@pytest.fixture(scope="module")
def whole(ours: Path, tmp_path_factory: pytest.TempPathFactory) -> Discovery:
    """A search that nothing disturbs."""
    return discover(wanted(ours, tmp_path_factory.mktemp("whole"), "whole"))


def assert_same_search(found: Discovery, whole: Discovery) -> None:
    """Equal weights and losses bit for bit, equal figures of the search at every step, the same solution."""
    assert_same_end(found.training.run, whole.training.run)
    assert found.solution.read_text() == whole.solution.read_text()
    for row, other in zip(rows_of(found.training.run), rows_of(whole.training.run), strict=True):
        same = [name for name in other if name in SAME or name.startswith("discover/")]
        assert {name: row[name] for name in same} == {name: other[name] for name in same}


def test_a_search_that_is_stopped_reaches_the_same_end(ours: Path, whole: Discovery, tmp_path: Path) -> None:
    told = rows_of(whole.training.run)
    assert told[-1]["discover/rollouts"] == 48 and told[-1]["discover/best"] == whole.figure
    signals = {"discover/beta", "discover/valid_share", "reference_kl", "entropy", "rollout/idle_ratio"}
    assert signals <= set().union(*told)
    assert any(row["grad_norm"] > 0 for row in told)
    held = json.loads(whole.solution.read_text())
    assert held["figure"] == whole.figure and held["certificate"] == {} and held["lineage"]
    parts = wanted(ours, tmp_path, "parts", rollout=replace(ROLLOUTS, actors=1))
    assert discover(replace(parts, train=replace(parts.train, stop_after=3))).training.step == 3
    assert_same_search(discover(parts), whole)


@pytest.mark.verify
def test_a_search_whose_workers_are_killed_reaches_the_same_end(
    ours: Path, whole: Discovery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = fail_at(
        tmp_path / "table", Fault(1, 1, "update"), Fault(0, 2, "before rename"), Fault(0, 4, "update")
    )
    monkeypatch.setattr("codex_ray.train.trainer.train_worker", armed(table))
    patient = replace(TWO_WORKERS, max_failures=3)
    assert_same_search(discover(wanted(ours, tmp_path, "killed", cluster=patient)), whole)
    assert table.struck() == [0, 1, 2]


@pytest.mark.verify
def test_adapters_without_training_and_scorers_that_fail(ours: Path, tmp_path: Path) -> None:
    frozen = wanted(ours, tmp_path, "frozen", learn=Learn(objective="none"), lora=Lora(rank=2))
    told = rows_of(discover(frozen).training.run)
    assert all(row["loss"] == 0 and row["grad_norm"] == 0 for row in told)
    failing = wanted(ours, tmp_path, "failing", options={"fails": "a"})
    told = rows_of(discover(failing).training.run)
    assert told[-1]["discover/rollouts"] == 48 and 0 < told[-1]["discover/valid_share"] < 1
    with pytest.raises(CodexRayError, match="none of the 12 sequences of step 0 could be scored"):
        discover(wanted(ours, tmp_path, "raising", options={"fails": "raises"}))


@pytest.mark.verify
def test_an_ablation_goes_on_where_it_was_and_its_runs_are_compared(ours: Path, tmp_path: Path) -> None:
    one = wanted(ours, tmp_path, "table", train=Training(steps=2))
    common = {field.name: getattr(one, field.name) for field in fields(Discover)}
    settings = Ablation(
        **common,
        arms=["full", "best_of_n"],
        learning_rates=[1e-3],
        shapings=[0.1, 0.3],
        grid_seeds=1,
        seeds=2,
    )
    path = ablation(settings)
    told = json.loads(path.read_text())
    assert [len(cell["outcomes"]) for cell in told["grid"]].count(2) == 2 and len(told["grid"]) == 3
    (compared,) = told["comparisons"]
    assert compared["pairs"] == 2 and compared["arm"] == "best_of_n"
    runs = sorted(folder for folder in path.parent.iterdir() if folder.is_dir())
    before = {run: (run / "summary.json").stat().st_mtime_ns for run in runs}
    assert len(runs) == 5 and json.loads(ablation(settings).read_text()) == told
    assert before == {run: (run / "summary.json").stat().st_mtime_ns for run in runs}
    page = compare(CompareSearches([str(run) for run in runs[:3]], output=str(tmp_path / "page.html")))
    assert "learn.objective" in page.read_text() and "<svg" in page.read_text()
