"""Components of other packages: found by name in each place, broken ones named; the template, used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from codex_ray import plugins
from codex_ray.corpus.cleaning.judges import Judge
from codex_ray.discover.problem import find_problem
from codex_ray.doctor.machine import plugins as looked_at
from codex_ray.errors import ConfigError
from codex_ray.evaluate.metrics import METRICS, find_metric
from codex_ray.rollout.rewards import exact, find_environment, find_reward

ROOT = Path(__file__).resolve().parents[3]
TEMPLATE = ROOT / "docs" / "template"
USE = """
import json
from codex_ray.doctor.machine import plugins
from codex_ray.evaluate.metrics import Answered, Example, find_metric
from codex_ray.rollout.rewards import find_reward
metric = find_metric("vowels")
numbers = metric.statistics([Answered(Example("1", "x"), ("aeb", "b"))])
value = float(metric.combine(numbers.sum(axis=0, keepdims=True))[0])
print(json.dumps([find_reward("vowels")({}, "aeib"), value, plugins().found]))
"""


class Shout:
    name = "shout"

    def apply(self, text: str, name: str) -> str:
        return text.upper()


def test_the_template_is_built_installed_and_used(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    site = tmp_path / "site"
    words = ["--no-deps", "--no-build-isolation", "-q"]
    for command in (
        [*pip, "wheel", *words, str(TEMPLATE), "-w", str(tmp_path)],
        [
            *pip,
            "install",
            *words,
            "--target",
            str(site),
            "--no-index",
            "-f",
            str(tmp_path),
            "codex-ray-vowels",
        ],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", USE], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    reward, value, found = json.loads(done.stdout)
    assert reward == 0.75
    assert value == pytest.approx((2 / 3 + 0) / 2)
    assert found == "vowels (rewards), vowels (metrics)"


def test_later_places_win_and_names_of_ours_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "site" / "shout-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shout\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        f"[codex_ray.judges]\nloud = {__name__}:Shout\n[codex_ray.rewards]\n"
        "exact = json:loads\nmine = json:loads\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert Judge("loud").apply("a", "x") == "A"
    assert find_reward("exact") is exact
    assert find_reward("mine") is json.loads
    file = tmp_path / "components.yaml"
    file.write_text("rewards: {mine: json.dumps}\nmetrics: {same: codex_ray.evaluate.metrics.METRICS}\n")
    monkeypatch.setenv(plugins.VARIABLE, str(file))
    assert find_reward("mine") is json.dumps
    with pytest.raises(ConfigError, match=r"metric same .* is no codex_ray.evaluate.metrics.Metric"):
        find_metric("same")
    with plugins.registered("rewards", "mine", "json.load"):
        assert find_reward("mine") is json.load
        with plugins.registered("rewards", "mine", "json.loads"):
            assert find_reward("mine") is json.loads
        assert find_reward("mine") is json.load
    assert find_reward("mine") is json.dumps
    assert find_metric("exact_match") is METRICS["exact_match"]
    with plugins.registered("problems", "sums", "codex_ray.discover.problems.arithmetic.Arithmetic"):
        assert type(find_problem("sums", None, {})).__name__ == "Arithmetic"
    with plugins.registered("environments", "one", "codex_ray.rollout.environment.SingleTurn"):
        assert find_environment("one").__name__ == "SingleTurn"  # type: ignore[attr-defined]


def test_a_broken_component_is_named_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "components.yaml"
    file.write_text("rewards: {bad: broken_module.judge, gone: json.nothing}\n")
    monkeypatch.setenv(plugins.VARIABLE, str(file))
    assert set(plugins.broken()) == {"rewards bad", "rewards gone"}
    found = looked_at()
    assert found.state == "failed"
    assert "rewards bad (broken_module.judge) cannot be loaded (RuntimeError: no licence)" in found.found
    with pytest.raises(ConfigError, match="no licence"):
        find_reward("bad")
    with (
        pytest.raises(ConfigError, match="no licence"),
        plugins.registered("rewards", "x", "broken_module.judge"),
    ):
        pass
    assert ("rewards", "x") not in plugins._registered


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("reward: {a: b.c}", "did you mean 'rewards'"),
        ("rewards: [a]", "must hold `name: dotted.path` lines"),
        ("rewards: {a: 3}", "must hold `name: dotted.path` lines"),
    ],
)
def test_a_wrong_file_of_names_is_refused(tmp_path: Path, monkeypatch, text: str, sentence: str) -> None:
    file = tmp_path / "components.yaml"
    file.write_text(text)
    monkeypatch.setenv(plugins.VARIABLE, str(file))
    with pytest.raises(ConfigError, match=sentence):
        find_reward("nothing.known")
