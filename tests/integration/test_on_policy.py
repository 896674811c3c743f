"""Rewards, environments, several updates and faults of a run that learns from its own answers."""

from __future__ import annotations

import json
import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from codex_ray.config.finetune import Finetune
from codex_ray.config.followed import Replay
from codex_ray.config.train import Checkpoints, Optimizer, Training
from codex_ray.train.driver import TrainingResult
from codex_ray.train.finetune import finetune
from tests.faults import Fault, armed, fail_at
from tests.integration.assassin import killed, let_loose
from tests.integration.test_finetune import LENGTH, ours, settings, tokenizer
from tests.integration.test_methods import on_policy, pairs, questions, rows_of, warm
from tests.integration.training import TWO_WORKERS, assert_same_end

__all__ = ["ours", "pairs", "questions", "tokenizer", "warm"]
STUDENT_7 = 2.3646  # 97.5 % point of Student's t with 7 degrees of freedom
SUMS = [(f"{left}*{right} = ", str(left * right)) for left in range(3, 13) for right in range(3, 13)]


@pytest.fixture(scope="module")
def judge(warm: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model of which answer is sorted."""
    runs = tmp_path_factory.mktemp("judge")
    return finetune(settings(warm, pairs, runs, "judge", method="reward")).run


@pytest.mark.verify
@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_a_reward_model_rewards(
    method: str, warm: Path, questions: Path, judge: Path, tmp_path: Path
) -> None:
    wanted = on_policy(warm, questions, tmp_path, method)
    wanted = replace(wanted, on_policy=replace(wanted.on_policy, reward=str(judge)))
    told = rows_of(finetune(wanted).run)
    assert len(told) == 4 and all(row["rollout/filtered"] == 0 for row in told)
    model = AutoModelForSequenceClassification.from_pretrained(judge / "model")
    with torch.inference_mode():
        scores = [float(model(torch.tensor([[1, token]])).logits) for token in range(4, 200)]
    # Of no other range than what it says of anything, and none of the shares that `places` would give.
    assert all(2 * min(scores) - 1 < row["reward"] < 2 * max(scores) + 1 for row in told)
    assert not any(row["reward"] * 3 * 16 % 1 == 0 for row in told)


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Products; half of the answers are calculated, the others are wrong."""
    file = tmp_path_factory.mktemp("sums") / "sums.jsonl"
    file.write_text("".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in SUMS))
    return file


@pytest.fixture(scope="module")
def calculating(ours: Path, sums: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has seen the calculator used."""
    folder = tmp_path_factory.mktemp("calculating")
    shown = folder / "shown.jsonl"
    rows = [{"prompt": p, "response": f"<<{p.split()[0]}={r}>> {r}"} for p, r in SUMS]
    shown.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = Training(steps=60, batch_tokens=8 * LENGTH)
    optimizer = Optimizer(learning_rate=1e-2, weight_decay=0.0)
    return finetune(settings(ours, shown, folder, "shown", train=train, optimizer=optimizer)).run


@pytest.mark.verify
def test_a_calculator_answers_within_the_text(calculating: Path, sums: Path, tmp_path: Path) -> None:
    wanted: Finetune = on_policy(calculating, sums, tmp_path, "grpo")
    own = replace(wanted.on_policy, reward="last_number", environment="calculator")
    wanted = replace(wanted, on_policy=own, rollout=replace(wanted.rollout, max_new_tokens=32))
    wanted = replace(wanted, track=replace(wanted.track, mixing_every=2))
    told = rows_of(finetune(wanted).run)
    assert any(row["rollout/turns"] > 1 for row in told)
    assert [row["step"] for row in told if any(name.startswith("mixing/") for name in row)] == [1, 3]
    assert all(row["rollout/filtered"] == 0 for row in told)


@pytest.fixture(scope="module")
def programming(ours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has seen Python used."""
    folder = tmp_path_factory.mktemp("programming")
    shown = folder / "shown.jsonl"
    rows = [
        {"prompt": p, "response": f"<python>print({p.split()[0]})</python><output>{r}</output>{r}"}
        for p, r in SUMS
    ]
    shown.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = Training(steps=100, batch_tokens=8 * LENGTH)
    optimizer = Optimizer(learning_rate=1e-2, weight_decay=0.0)
    return finetune(settings(ours, shown, folder, "shown", train=train, optimizer=optimizer)).run


@pytest.mark.verify
@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is made of Linux's namespaces")
def test_python_answers_within_the_text(programming: Path, sums: Path, tmp_path: Path) -> None:
    """A reward of one's own sees what the sandbox printed, and observations are not learnt from."""
    wanted: Finetune = on_policy(programming, sums, tmp_path, "grpo")
    own = replace(wanted.on_policy, reward="tests.integration.rewards.printed", environment="python")
    wanted = replace(wanted, on_policy=own, rollout=replace(wanted.rollout, max_new_tokens=48))
    told = rows_of(finetune(wanted).run)
    assert any(row["rollout/turns"] > 1 for row in told) and any(row["reward"] > 0 for row in told)
    assert all(row["rollout/filtered"] == 0 for row in told)


@pytest.mark.verify
def test_old_prompts_are_answered_among_the_new_ones(
    warm: Path, questions: Path, sums: Path, tmp_path: Path
) -> None:
    """Some prompts are old; a run that is stopped amid a batch goes on with the same ones."""
    wanted = several(on_policy(warm, questions, tmp_path, "grpo"))
    own = replace(wanted.on_policy, reward="tests.integration.rewards.hundred_for_products")
    wanted = replace(wanted, on_policy=own, replay=Replay(path=str(sums), share=0.25))
    whole = finetune(wanted)
    assert_balanced(whole)
    told = rows_of(whole.run)
    old = [round(row["reward"] * 8 / 100) for row in told if "reward" in row]
    assert len(old) == 4 and sum(old) == told[-1]["source/replay/rows"] > 0
    assert any(row["loss"] != 0 for row in told)
    parts = replace(wanted, name="parts", rollout=replace(wanted.rollout, actors=1))
    assert finetune(replace(parts, train=replace(parts.train, stop_after=5))).step == 5
    assert_same_end(finetune(parts).run, whole.run)


def assert_balanced(result: TrainingResult) -> None:
    """Everything that was submitted was accepted or left out."""
    figures = result.figures
    ended = figures["rollout/accepted_total"] + figures["rollout/filtered_total"]
    assert figures["rollout/submitted_total"] == ended > 0


def disturbed(
    patch: pytest.MonkeyPatch, wanted: Finetune, marks: Path, victims: dict[int, str], *faults: Fault
) -> TrainingResult:
    """Run with actors killed in some batches, and with faults of the workers."""
    table = fail_at(marks / "table", *faults)
    with patch.context() as patched:
        let_loose(patched, marks, victims)
        patched.setattr("codex_ray.train.trainer.train_worker", armed(table))
        result = finetune(wanted)
    assert table.struck() == list(range(len(faults))) and killed(marks) == sorted(victims)
    assert_balanced(result)
    return result


def several(wanted: Finetune) -> Finetune:
    """Two updates of each of four batches, each of eight tasks, with a checkpoint amid every other one."""
    own = replace(wanted.on_policy, prompts=8, minibatches=2)
    rollout = replace(wanted.rollout, slots=4, task_sequences=4)
    train = replace(wanted.train, steps=8)
    return replace(wanted, on_policy=own, rollout=rollout, train=train, checkpoints=Checkpoints(every=3))


@pytest.mark.verify
@pytest.mark.parametrize("event", ["batch", "backward", "update", "write"])
def test_whoever_is_killed_the_run_ends_as_the_undisturbed_one(
    event: str, warm: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = several(on_policy(warm, questions, tmp_path, "grpo"))
    whole = finetune(wanted)
    assert_balanced(whole)
    assert whole.figures["rollout/submitted_total"] == 4 * 8 * 4
    faults = [Fault(1, 3 if event == "write" else 2, event), Fault(0, 6 if event == "write" else 8, event)]
    again = replace(wanted, name="again", cluster=replace(TWO_WORKERS, max_failures=4))
    victims = {0: "scorer", 1: "sampler", 3: "scorer"}
    result = disturbed(monkeypatch, again, tmp_path / "marks", victims, *faults)
    assert_same_end(result.run, whole.run)
    assert result.figures["recoveries"] == 2
    assert any(row.get("rollout/deaths", 0) >= 1 for row in rows_of(result.run))


@pytest.mark.verify
@pytest.mark.timeout(1800)
def test_an_overlapped_run_that_is_disturbed_is_one_among_others(
    warm: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its validation loss and reward are within what eight undisturbed seeds let expect of a ninth."""
    wanted = several(on_policy(warm, questions, tmp_path, "grpo"))
    wanted = replace(wanted, rollout=replace(wanted.rollout, staleness=1))
    found: dict[str, list[float]] = {"reward": [], "validation_loss": []}
    for seed in range(1, 9):
        result = finetune(replace(wanted, name=f"seed{seed}", seed=seed))
        assert_balanced(result)
        for name, values in found.items():
            values.append(result.figures[name])
    again = replace(wanted, name="again", seed=9, cluster=replace(TWO_WORKERS, max_failures=2))
    victims = {0: "scorer", 1: "sampler", 3: "sampler"}
    result = disturbed(monkeypatch, again, tmp_path / "marks", victims, Fault(1, 5, "backward"))
    for name, values in found.items():
        mean, deviation = statistics.mean(values), statistics.stdev(values)
        reach = STUDENT_7 * deviation * math.sqrt(1 + 1 / len(values))
        print(f"{name}: {result.figures[name]:.4f} of {mean:.4f} +- {reach:.4f}")
        assert abs(result.figures[name] - mean) <= reach, (name, values)
