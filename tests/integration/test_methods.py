"""The methods of fine-tuning beside sft, each through the whole stack on a tiny model that knows a little."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from codex_ray.config.finetune import Finetune, Loss, OnPolicy
from codex_ray.config.rollout import Rollouts
from codex_ray.config.train import DeepSpeed, Lora, Optimizer, Training
from codex_ray.errors import CodexRayError
from codex_ray.rollout.problems import sorting
from codex_ray.track.metrics import read_metrics
from codex_ray.train.finetune import finetune
from tests.integration.assassin import killed, let_loose
from tests.integration.test_finetune import LENGTH, chats, ours, settings, tokenizer
from tests.integration.training import assert_same_end, losses

__all__ = ["chats", "ours", "tokenizer"]
SORT = [sorting(1, index, digits=3) for index in range(200)]
ROLLOUTS = Rollouts(actors=2, max_new_tokens=12, slots=8, task_sequences=8)


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [dict(row) for row in read_metrics(run / "metrics.jsonl")]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("questions") / "sort.jsonl"
    rows = [{"prompt": f"{one.prompt} ", "response": one.answer} for one in SORT]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def warm(ours: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has seen how answers look."""
    wanted = settings(
        ours, questions, tmp_path_factory.mktemp("warm"), "warm",
        train=Training(steps=40, batch_tokens=8 * LENGTH),
        optimizer=Optimizer(learning_rate=1e-2, weight_decay=0.0),
    )  # fmt: skip
    return finetune(wanted).run


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {"prompt": f"{one.prompt} ", "chosen": one.answer, "rejected": one.answer[::-1]}
        for one in SORT
        if one.answer != one.answer[::-1]
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def on_policy(model: Path, data: Path, runs: Path, method: str, **changes: Any) -> Finetune:
    made = settings(
        model, data, runs, method,
        method=method, train=Training(steps=4, batch_tokens=4 * LENGTH), rollout=ROLLOUTS,
        on_policy=OnPolicy(prompts=4, samples=4, reward="places", micro_batch_tokens=512),
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.0),
    )  # fmt: skip
    return replace(made, **changes)


@pytest.mark.verify
def test_preferences_are_learnt_and_told_apart(warm: Path, pairs: Path, tmp_path: Path) -> None:
    wanted = settings(
        warm, pairs, tmp_path, "dpo", method="dpo", loss=Loss(beta=0.5),
        optimizer=Optimizer(learning_rate=3e-3, weight_decay=0.0), deepspeed=DeepSpeed(stage=1),
    )  # fmt: skip
    told = rows_of(finetune(wanted).run)
    assert told[0]["loss"] == pytest.approx(0.6931, abs=1e-3) and told[0]["margin"] == pytest.approx(
        0.0, abs=1e-4
    )
    assert told[-1]["accuracy"] > 0.6 and told[-1]["margin"] > 0.1
    ranked = finetune(replace(wanted, name="reward", method="reward")).run
    assert rows_of(ranked)[-1]["validation/accuracy"] >= 0.5
    judge = AutoModelForSequenceClassification.from_pretrained(ranked / "model")
    assert judge.config.num_labels == 1 and bool(judge.score.weight.any())


@pytest.mark.verify
@pytest.mark.parametrize("stage", [0, 3])
def test_likelihoods_weighed_and_held(stage: int, warm: Path, chats: Path, tmp_path: Path) -> None:
    wanted = settings(warm, chats, tmp_path, "dft", method="dft", deepspeed=DeepSpeed(stage=stage))
    told = rows_of(finetune(wanted).run)
    assert told[-1]["nll"] < told[0]["nll"]
    held = replace(wanted, name="kl", method="sft", loss=Loss(kl=5.0))
    free = rows_of(finetune(replace(held, name="free", loss=Loss())).run)
    held_rows = rows_of(finetune(held).run)
    assert held_rows[0]["reference_divergence"] == pytest.approx(0.0, abs=1e-5)
    assert held_rows[-1]["nll"] > free[-1]["loss"]


@pytest.mark.verify
def test_groups_of_answers_raise_their_reward_and_resume_exactly(
    warm: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps from each batch of answers; the stop is between the second's. An actor and a scorer die."""
    wanted = on_policy(warm, questions, tmp_path, "grpo")
    wanted = replace(wanted, on_policy=replace(wanted.on_policy, minibatches=2))
    whole = finetune(wanted).run
    told = rows_of(whole)
    assert [row["step"] for row in told if "reward" in row] == [1, 3]
    assert all(0 <= row["reward"] <= 1 and row["rollout/length"] > 1 for row in told[::2])
    assert all({"clip_share", "entropy", "importance_ratio"} <= row.keys() for row in told)
    assert "trainer/idle_ratio" in told[0] and told[1]["tokens"] < 2.5 * told[0]["tokens"]
    # Not 1 by the probability of padding, which the sampler never draws and this model knows little about.
    assert 0.998 < told[0]["importance_ratio"] <= 1.0 + 1e-5
    parts = replace(wanted, name="parts", rollout=replace(ROLLOUTS, actors=1))
    with monkeypatch.context() as patch:
        let_loose(patch, tmp_path / "marks", {0: "sampler", 1: "scorer"})
        first = finetune(replace(parts, train=replace(parts.train, stop_after=3)))
    assert first.step == 3 and killed(tmp_path / "marks") == [0, 1]
    assert first.figures["rollout/submitted_total"] == first.figures["rollout/accepted_total"] == 32
    assert_same_end(finetune(parts).run, whole)
    AutoModelForCausalLM.from_pretrained(whole / "model")


@pytest.mark.verify
@pytest.mark.parametrize("method", ["ppo", "sdft"])
def test_the_other_methods_on_policy(method: str, warm: Path, questions: Path, tmp_path: Path) -> None:
    wanted = on_policy(warm, questions, tmp_path, method, lora=Lora(rank=4), deepspeed=DeepSpeed(stage=3))
    own = replace(wanted.on_policy, least_gain=None, teacher_template="{demonstration} {question}")
    wanted = replace(wanted, on_policy=own)
    run = finetune(wanted).run
    told = rows_of(run)
    assert len(losses(run)) == 4 and (run / "model" / "adapter_model.safetensors").is_file()
    assert ("value_loss" if method == "ppo" else "divergence") in told[0]


@pytest.mark.verify
def test_self_distillation_needs_a_model_that_demonstrations_help(
    ours: Path, questions: Path, tmp_path: Path
) -> None:
    wanted = on_policy(ours, questions, tmp_path, "sdft")
    own = replace(wanted.on_policy, least_gain=1.0, teacher_template="{demonstration} {question}")
    wanted = replace(wanted, on_policy=own)
    with pytest.raises(CodexRayError, match="so it would teach noise"):
        finetune(wanted)
    with pytest.raises(CodexRayError, match=r"shorter on_policy\.teacher_template"):
        finetune(replace(wanted, name="long", on_policy=replace(wanted.on_policy, teacher_template=None)))
