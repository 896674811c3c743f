"""``discover`` through the whole stack: a tiny model, a tiny problem, stopped and gone on with."""

from __future__ import annotations

import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from codex_ray.config.common import Device
from codex_ray.config.corpus import Tokenizer as Train
from codex_ray.config.discover import Ablation, CompareSearches, Discover, Learn, Search, VerifySolution
from codex_ray.config.model import Model, Residual
from codex_ray.config.rollout import Rollouts
from codex_ray.config.train import Checkpoints, DeepSpeed, Lora, Optimizer, Schedule, Training, Validation
from codex_ray.discover.ablation import ablation
from codex_ray.discover.compare import compare
from codex_ray.discover.problem import find_problem
from codex_ray.discover.run import Discovery, discover
from codex_ray.discover.verify_solution import verify
from codex_ray.errors import CodexRayError
from codex_ray.model import build_model
from codex_ray.tokenizer import Tokenizer, train_tokenizer
from codex_ray.track.metrics import read_metrics
from codex_ray.train.finetune import finetune
from tests.faults import Fault, armed, fail_at
from tests.integration.test_finetune import ours, settings, tokenizer
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
    whole = replace(ROLLOUTS, max_new_tokens=40)  # what is cut off is no solution, and no verifier is asked
    with pytest.raises(CodexRayError, match=r"none of the 12 sequences of step [0-9] could be scored"):
        discover(wanted(ours, tmp_path, "raising", options={"fails": "raises"}, rollout=whole))


SCORE = """
import sys
print(len(open(sys.argv[1], errors="replace").read()))
"""


@pytest.mark.verify
def test_a_command_scores_what_a_search_writes(ours: Path, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(SCORE)
    options = {"task": "Longer.", "seeds": ["b"], "direction": "maximise", "block": False}
    searched = wanted(
        ours, tmp_path, "scored", problem="command", options=options,
        score=f"{sys.executable} {tmp_path / 'score.py'} {{solution}}", train=Training(steps=1),
        rollout=replace(ROLLOUTS, max_new_tokens=20), search=Search(groups=1, samples=12),
    )  # fmt: skip
    found = discover(searched)
    held = json.loads(found.solution.read_text())
    assert found.figure == held["figure"] == len(held["solution"]) > 1
    assert rows_of(found.training.run)[-1]["discover/rollouts"] == 12
    own = {"problem": "command", "score": searched.score, "options": options}
    assert verify(VerifySolution(str(found.solution), **own)).figure == found.figure


REVERSED = "```python\ndef propose(parent, seconds):\n    return parent[::-1]\n```"
PYTHON: dict[str, Any] = {
    "problem": "erdos_min_overlap",
    "language": "python",
    "options": {"steps": 8, "sandbox": {"wall_seconds": 20.0}},
}


@pytest.fixture(scope="module")
def programmer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows one program by heart, which turns a step function round."""
    folder = tmp_path_factory.mktemp("programmer")
    problem = find_problem(PYTHON["problem"], PYTHON["language"], PYTHON["options"])
    solutions = problem.seeds(1, 24)
    prompts = [problem.prompt(one, problem.verify(one)) for one in solutions]
    train_tokenizer([f"{text}{REVERSED}" for text in prompts], Train(vocabulary_size=600), folder, 1)
    loaded = Tokenizer.load(folder)
    shape = Model(
        hidden_size=32, intermediate_size=64, layers=2, heads=4, key_value_heads=2, head_size=8,
        residual=Residual(kind="plain"),
    )  # fmt: skip
    build_model(
        shape, vocabulary_size=loaded.vocabulary_size, sequence_length=512, seed=1,
        special_ids=loaded.special_ids,
    ).save_pretrained(folder)  # fmt: skip
    rows = [{"prompt": text, "response": REVERSED} for text in prompts]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = Training(steps=120, batch_tokens=4096)
    optimizer = Optimizer(learning_rate=1e-2, weight_decay=0.0)
    made = settings(folder, folder / "rows.jsonl", folder, "by_heart", train=train, optimizer=optimizer)
    return finetune(made).run


@pytest.mark.verify
@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is made of Linux's namespaces")
def test_programs_that_a_model_writes_are_run_and_graded(programmer: Path, tmp_path: Path) -> None:
    searched = wanted(
        programmer, tmp_path, "programs", **PYTHON, search=Search(groups=2, samples=4),
        train=Training(steps=2),
        rollout=replace(ROLLOUTS, stop=[], max_new_tokens=48, score_seconds=60.0, scorers=2),
    )  # fmt: skip
    found = discover(searched)
    told = rows_of(found.training.run)
    assert told[-1]["discover/rollouts"] == 16 and told[0]["discover/valid_share"] > 0
    assert told[-1]["discover/states"] > 2  # a function that is turned round is another one, and kept
    checked = verify(VerifySolution(str(found.solution), options=PYTHON["options"]))
    assert checked.figure == found.figure


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
