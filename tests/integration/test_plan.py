"""Planning for this machine: its processes are measured as a run's would be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import codex_ray
from codex_ray.config.compose import compose
from codex_ray.config.verbs import find_verb
from codex_ray.errors import CodexRayError

SMALL = {"vocabulary_size": 256, "sequence_length": 32, "corpus": "none"}


@pytest.mark.verify
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.verify)])
def test_a_run_is_planned_for_this_machine(
    workers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "plan.json"
    words = ["recipe=smoke", "train.batch_tokens=512", "compute.dtype=float32", "deepspeed=zero2"]
    words.append(f"cluster.workers={workers}")
    planned = codex_ray.plan(*words, **SMALL, output=str(output))
    printed = capsys.readouterr().out
    assert "time of a step" in printed
    assert "20 steps in" in printed
    assert (planned.card, planned.workers, planned.stage, planned.steps) == ("cpu", workers, 2, 20)
    assert set(planned.step.parts) >= {"products", "attention", "connections", "loss"}
    assert all(seconds > 0 for seconds in planned.step.parts.values())
    assert planned.step.update > 0
    assert 100e6 < planned.chosen.process < planned.chosen.total < 3e9
    assert 0 < planned.goodput <= 1
    data = json.loads(output.read_text())
    assert data["memory"]["2"]["none"]["total"] == planned.chosen.total
    assert data["step"]["total"] == planned.step.total


@pytest.mark.verify
def test_a_process_that_fails_is_named_in_a_sentence() -> None:
    words = ["recipe=smoke", "cluster.workers=1", "train.batch_tokens=512", "compute.dtype=float32"]
    words += ["deepspeed.config={no_such_key_at_all: {enabled: true}, zero_optimization: {nonsense: 1}}"]
    with pytest.raises(CodexRayError, match=r"measuring this machine failed \(.+\); name a card"):
        codex_ray.plan(*words, **SMALL)


@pytest.mark.verify
@pytest.mark.parametrize("recipe", ["cpu-tiny", "cpu-20m"])
def test_recipes_for_cpus_are_planned_and_fit(recipe: str) -> None:
    words = [f"recipe={recipe}", "train.steps=1000", "compute.dtype=bfloat16"]
    settings = compose(
        "plan", words, None, {"vocabulary_size": 8192, "sequence_length": 256, "corpus": "none"}
    )
    planned = find_verb("plan").run(settings)
    assert planned.chosen.total < 8e9
    assert planned.seconds > 0
