"""The template project's components in real runs, from made text to a tuned model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a machine that has the template installed."""
    site = tmp_path_factory.mktemp("site")
    words = ["install", "--no-deps", "--no-build-isolation", "-q", "--target", str(site)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words]
    subprocess.run([*pip, str(ROOT / "docs" / "template")], check=True, timeout=120)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}


@pytest.mark.verify
@pytest.mark.timeout(1200)
@pytest.mark.integration
def test_a_life_with_components_of_another_package(installed: dict[str, str], tmp_path: Path) -> None:
    def verb(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "codex_ray", *words],
            cwd=tmp_path,
            env=installed,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    size = ["pack.sequence_length=32", "split.validation=0.1"]
    verb("prepare", "component:squares", "tokenizer.path=component:bytes", "clean.judges=[no_sevens]", *size)
    shown = verb("corpus", "show", "corpus", "row=0")
    assert "The square of" in shown
    marker = json.loads((tmp_path / "corpus" / "tokenizer" / "codex_ray_tokenizer.json").read_text())
    assert marker == {"component": "bytes"}
    run = [
        "cluster.workers=1",
        "train.batch_tokens=64",
        "track.trackers=[lines]",
        "track.mlflow.enabled=false",
    ]
    shape = ["model=plain-tiny", "model.layers=1", "validation.every=4"]
    halving = ["schedule.kind=halving", "schedule.warmup_steps=0"]
    verb("pretrain", "corpus", "name=first", "train.steps=8", *halving, *run, *shape)
    rows = [json.loads(line) for line in (tmp_path / "runs/first/metrics.jsonl").read_text().splitlines()]
    rates = [row["learning_rate"] for row in rows]
    assert rates[-1] < rates[0] / 4
    lines = [json.loads(line) for line in (tmp_path / "runs/first/lines.jsonl").read_text().splitlines()]
    assert lines[0] == {"run": "first"} and lines[-1] == {"status": "FINISHED"}
    assert [line["loss"] for line in lines[1:-1]] == [row["loss"] for row in rows]
    examples = [{"prompt": f"{n} and 1 is ", "response": str(n + 1)} for n in range(64)]
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in examples))
    told = ["data.path=examples.jsonl", "method=focal", "train.steps=4", "data.sequence_length=32"]
    verb("finetune", "runs/first", "name=second", *told, *run)
    tuned = [json.loads(line) for line in (tmp_path / "runs/second/metrics.jsonl").read_text().splitlines()]
    assert all(row["loss"] < row["nll"] for row in tuned)  # what it knows counts less
    asked = ["on_policy.reward=vowels", "on_policy.environment=patient", "rollout.sampler=greedy"]
    small = ["on_policy.prompts=2", "on_policy.samples=2", "rollout.max_new_tokens=4", "train.steps=2"]
    verb("finetune", "runs/first", "name=third", *told[:1], *told[3:], "method=grpo", *asked, *small, *run)
    last = json.loads((tmp_path / "runs/third/metrics.jsonl").read_text().splitlines()[-1])
    assert 0 <= last["rollout/reward"] <= 1
