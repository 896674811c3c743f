"""Rewards, environments, several updates and faults of a run that learns from its own answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from codex_ray.config.finetune import Finetune
from codex_ray.config.train import Optimizer, Training
from codex_ray.rollout.environment import evaluate
from codex_ray.train.finetune import finetune
from tests.integration.test_finetune import LENGTH, ours, settings, tokenizer
from tests.integration.test_methods import on_policy, pairs, questions, rows_of, warm

__all__ = ["ours", "pairs", "questions", "tokenizer", "warm"]
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
    told = rows_of(finetune(wanted).run)
    assert any(row["rollout/turns"] > 1 for row in told)
    assert evaluate("12*34") == "408"
