"""Fine-tuning that shows what becomes of old abilities, through the whole stack, and keeps them by replay."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest

from codex_ray.config.common import Mlflow
from codex_ray.config.finetune import Finetune
from codex_ray.config.followed import Evaluation, FollowedTask, Replay
from codex_ray.config.train import Checkpoints, DeepSpeed, Lora, Optimizer
from codex_ray.files import write_json
from codex_ray.model.lineage import LINEAGE, life_of, lineage
from codex_ray.track.metrics import read_metrics
from codex_ray.train.finetune import finetune
from tests.integration.test_finetune import CHATS, chats, ours, settings, tokenizer
from tests.integration.training import QUIET, assert_same_end, batches

__all__ = ["chats", "ours", "tokenizer"]
LIFE = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("old") / "old.jsonl"
    rows = [json.loads(json.dumps(row).replace("def f", "def old")) for row in CHATS[:40]]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def followed(ours: Path, chats: Path, old: Path, runs: Path, name: str, **changes: Any) -> Finetune:
    tasks = {"old": FollowedTask(path=str(old), verifier="places"), "sums": FollowedTask(path="arithmetic")}
    wanted = settings(
        ours, chats, runs, name,
        evaluation=Evaluation(tasks=tasks, every_steps=4, rows=12, max_new_tokens=6),
        replay=Replay(path=str(old), share=0.25),
        track=replace(QUIET, report=True, mlflow=Mlflow()),
    )  # fmt: skip
    return replace(wanted, **changes)


@pytest.fixture(scope="module")
def run(ours: Path, chats: Path, old: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    write_json(ours / LINEAGE, lineage(LIFE, "base", "rows"))
    return finetune(followed(ours, chats, old, tmp_path_factory.mktemp("runs"), "followed")).run


@pytest.mark.verify
def test_tasks_are_measured_before_during_and_after(run: Path) -> None:
    names = ("new", "old", "sums")
    lines: list[Any] = read_metrics(run / "evaluation.jsonl")
    assert [line["step"] for line in lines] == [0, 4, 8] and all(
        tuple(line["tasks"]) == names for line in lines
    )
    rows = {row["step"]: row for row in read_metrics(run / "metrics.jsonl")}
    for line in lines[1:]:
        assert [rows[line["step"]][f"evaluation/{name}"] for name in names] == [
            line["tasks"][name]["value"] for name in names
        ]
    summary = json.loads((run / "summary.json").read_text())
    assert {
        f"evaluation/old/{key}" for key in ("before", "after", "change", "change_low", "change_high")
    } <= set(summary)
    assert rows[8]["source/replay/rows"] == pytest.approx(0.25 * 8 * 4, abs=8)
    page = (run / "report.html").read_text()
    assert "<h2>Tasks</h2>" in page and "95 % interval" in page


@pytest.mark.verify
def test_a_tuned_model_belongs_to_the_life_of_its_base(run: Path) -> None:
    assert life_of(run) == LIFE
    client = mlflow.MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}")
    experiment = client.search_experiments()[0].experiment_id
    found = {one.info.run_name: one for one in client.search_runs([experiment])}
    parent = found[f"life-{LIFE}"].info.run_id
    assert found["followed"].data.tags["mlflow.parentRunId"] == parent
    history = client.get_metric_history(found["followed"].info.run_id, "evaluation/old")
    assert [point.step for point in history] == [0, 4, 8]


@pytest.mark.verify
def test_a_run_that_is_stopped_sees_the_same_old_rows_and_ends_the_same(
    run: Path, ours: Path, chats: Path, old: Path, tmp_path: Path
) -> None:
    wanted = followed(ours, chats, old, tmp_path, "parts")
    first = finetune(replace(wanted, train=replace(wanted.train, stop_after=5)))
    assert first.step == 5
    again = finetune(wanted).run
    assert_same_end(again, run)
    assert batches(again) == batches(run)
    assert (again / "evaluation.jsonl").read_text().count("\n") == 3
    values = [
        [
            {name: task["value"] for name, task in line["tasks"].items()}
            for line in read_metrics(one / "evaluation.jsonl")
        ]  # type: ignore[attr-defined]
        for one in (again, run)
    ]
    assert values[0] == values[1]


@pytest.mark.verify
@pytest.mark.parametrize("lora", [0, 4])
def test_a_spare_worker_measures_what_all_would_and_the_best_checkpoint_is_kept(
    lora: int, run: Path, ours: Path, chats: Path, old: Path, tmp_path: Path
) -> None:
    wanted = followed(ours, chats, old, tmp_path, "beside", lora=Lora(rank=lora))
    wanted = replace(
        wanted,
        evaluation=replace(wanted.evaluation, every_steps=2, asynchronous=True),
        checkpoints=Checkpoints(
            every=2, keep_last=1, keep_best=1, best_metric="evaluation/old", best_mode="min"
        ),
    )
    beside = finetune(wanted).run
    lines: list[Any] = read_metrics(beside / "evaluation.jsonl")
    steps = [line["step"] for line in lines]
    assert steps[0] == 0 and steps[-1] == 8 and len(steps) > 2  # a slow spare worker may have missed some
    assert [line["step"] for line in lines if line.get("apart")] == steps[1:-1]
    values = {line["step"]: line["tasks"]["old"]["value"] for line in lines}
    if not lora:
        assert_same_end(beside, run)
        together: list[Any] = read_metrics(run / "evaluation.jsonl")
        assert all(
            values.get(line["step"], line["tasks"]["old"]["value"]) == line["tasks"]["old"]["value"]
            for line in together
        )
    kept = [int(folder.name.removeprefix("step_")) for folder in (beside / "checkpoints").glob("step_*")]
    best = min((value, step) for step, value in values.items() if step)[1]
    assert set(kept) == {best, 8}
    history = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (found,) = history.search_runs(
        [one.experiment_id for one in history.search_experiments()], "attributes.run_name = 'beside'"
    )
    points = history.get_metric_history(found.info.run_id, "evaluation/old")
    assert sorted(point.step for point in points) == steps


@pytest.mark.verify
def test_what_is_measured_changes_nothing(
    run: Path, ours: Path, chats: Path, old: Path, tmp_path: Path
) -> None:
    unseen = followed(ours, chats, old, tmp_path, "unseen", evaluation=Evaluation())
    assert_same_end(finetune(unseen).run, run)
    assert not (tmp_path / "unseen" / "evaluation.jsonl").exists()


@pytest.mark.verify
@pytest.mark.parametrize("lora", [0, 4])
def test_tasks_are_measured_where_each_rank_has_a_part_of_the_weights(
    lora: int, run: Path, ours: Path, chats: Path, old: Path, tmp_path: Path
) -> None:
    wanted = followed(ours, chats, old, tmp_path, "parts", deepspeed=DeepSpeed(stage=3), lora=Lora(rank=lora))
    still = replace(wanted, optimizer=Optimizer(learning_rate=0.0, weight_decay=0.0))
    lines: list[Any] = read_metrics(finetune(still).run / "evaluation.jsonl")
    before: list[Any] = read_metrics(run / "evaluation.jsonl")[:1]
    assert [line["tasks"] for line in lines] == [before[0]["tasks"]] * 3
