"""Components of other packages: found by name in each place, broken ones named; the template, used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from codex_ray import plugins
from codex_ray.cli import main
from codex_ray.config.compose import compose
from codex_ray.config.fields import build
from codex_ray.config.train import Schedule
from codex_ray.corpus.cleaning.judges import Judge
from codex_ray.discover.problem import find_problem
from codex_ray.doctor.machine import plugins as looked_at
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.evaluate.metrics import EXACT_MATCH, find_metric
from codex_ray.rollout.rewards import exact, find_environment, find_reward
from codex_ray.tokenizer import Tokenizer
from codex_ray.train.schedule import Plan, learning_rate_share

ROOT = Path(__file__).resolve().parents[3]
TEMPLATE = ROOT / "docs" / "template"
USE = """
import json, sys
from pathlib import Path
from codex_ray.config.fields import build
from codex_ray.config.finetune import Finetune, kind_of
from codex_ray.config.train import Schedule
from codex_ray.corpus.sources.read import read_unit
from codex_ray.corpus.sources.units import find_units
from codex_ray.config.corpus import Limits, Source
from codex_ray.doctor.machine import plugins
from codex_ray.evaluate.metrics import Answered, Example, find_metric
from codex_ray.model.load import empty_model, load_model
from codex_ray.rollout.rewards import find_reward
from codex_ray.tokenizer import Tokenizer
from codex_ray.train.schedule import Plan, learning_rate_share
folder = Path(sys.argv[1])
metric = find_metric("vowels")
numbers = metric.statistics([Answered(Example("1", "x"), ("aeb", "b"))])
value = float(metric.combine(numbers.sum(axis=0, keepdims=True))[0])
Tokenizer.load("component:bytes").save(folder / "tokenizer")
text = Tokenizer.load(folder / "tokenizer").decode([*"Zürich".encode(), 257])
source = Source("component:squares")
units = find_units("mine", source, [".txt"], unit_bytes=1000)
items = [item for unit in units for item in read_unit(unit, source, Limits())]
small = dict(model_type="vowels", vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
             num_attention_heads=1)
model = empty_model(small)
model.save_pretrained(folder / "model")
schedule = build(Schedule, {"kind": "halving", "warmup_steps": 0})
print(json.dumps({
    "reward": find_reward("vowels")({}, "aeib"),
    "metric": value,
    "found": plugins().found,
    "text": text,
    "items": [len(items), items[0].name, items[0].content],
    "model": type(load_model(folder / "model")).__name__,
    "rates": [learning_rate_share(schedule, Plan(8), step) for step in (0, 2, 7)],
    "rows": kind_of(build(Finetune, {"method": "focal"}).method),
}))
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
        [sys.executable, "-c", USE, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["metric"] == pytest.approx((2 / 3 + 0) / 2)
    assert {kind for kind in plugins.KINDS if f"({kind})" in told["found"]} == set(plugins.KINDS)
    del told["metric"], told["found"]
    assert told == {
        "reward": 0.75,
        "text": "Zürich",
        "items": [400, "odd:1", "The square of 1 is 1, and twice it 2.\n"],
        "model": "VowelsForCausalLM",
        "rates": [1.0, 0.5, 0.125],
        "rows": "answers",
    }


def test_later_places_win_and_names_of_ours_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "site" / "shout-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shout\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        f"[codex_ray.filters]\nloud = {__name__}:Shout\n[codex_ray.rewards]\n"
        "exact = json:loads\nmine = json:loads\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert Judge("loud").apply("a", "x") == "A"
    assert find_reward("exact") is exact
    assert plugins.broken().keys() == {"rewards exact"}  # a package takes no name of ours
    assert find_reward("mine") is json.loads
    file = tmp_path / "components.yaml"
    file.write_text("rewards: {mine: json.dumps}\nmetrics: {same: codex_ray.evaluate.metrics.mean}\n")
    monkeypatch.setenv(plugins.VARIABLE, str(file))
    assert find_reward("mine") is json.dumps
    with pytest.raises(ConfigError, match=r"metric=same .* is no codex_ray.evaluate.metrics.Metric"):
        find_metric("same")
    with plugins.registered("rewards", "mine", "json.load"):
        assert find_reward("mine") is json.load
        with plugins.registered("rewards", "mine", "json.loads"):
            assert find_reward("mine") is json.loads
        assert find_reward("mine") is json.load
    assert find_reward("mine") is json.dumps
    assert find_metric("exact_match") is EXACT_MATCH
    with plugins.registered("rewards", "exact", "json.load"):  # but the user may give one another meaning
        assert find_reward("exact") is json.load and not plugins.is_own("rewards", "exact")
        assert json.loads(plugins.carried()[plugins.VARIABLE])["rewards"] == {
            "mine": "json.dumps",
            "exact": "json.load",
        }
        with plugins.shared():
            assert os.environ[plugins.VARIABLE].startswith("{")
            assert find_reward("mine") is json.dumps
        assert os.environ[plugins.VARIABLE] == str(file)
    with plugins.registered("problems", "sums", "codex_ray.discover.problems.arithmetic.Arithmetic"):
        assert type(find_problem("sums", None, {})).__name__ == "Arithmetic"
    with plugins.registered("scorers", "one", "codex_ray.rollout.environment.SingleTurn"):
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


def test_a_package_that_fails_half_way_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "halfway"
    package.mkdir()
    (package / "__init__.py").write_text("from halfway import first, second\n")
    (package / "first.py").write_text("here = 1\n")
    (package / "second.py").write_text("import halfway_needs_this\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(plugins.VARIABLE, '{"rewards": {"half": "halfway.first.here"}}')
    assert main(["inspect", "nowhere"]) == 1
    told = capsys.readouterr().err
    assert "note: rewards half (halfway.first.here) cannot be loaded (ModuleNotFoundError: No module" in told
    assert not [name for name in sys.modules if name.startswith("halfway")]


def test_what_is_no_component_of_its_kind_is_refused() -> None:
    for kind, path, sentence in (
        ("rewards", "math.pi", "a float, which cannot be called"),
        ("filters", "json.loads", "without 'apply', which it must have"),
        ("trackers", "json.JSONDecoder", "no codex_ray.track.tracker.Tracker"),
        ("models", "json.loads", "without 'config_class'"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            plugins.find(kind, path, "key")
    with pytest.raises(ConfigError, match=r"one of cosine, wsd, linear, constant, not 'cosin'"):
        build(Schedule, {"kind": "cosin"})
    with pytest.raises(ConfigError, match="is none of the names that are known"):
        plugins.find("sources", "wiki", "path of a source")


def test_a_schedule_gives_rates_that_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CodexRayError, match=r"gives -3\.0 at step 5"):
        learning_rate_share(Schedule(kind=f"{__name__}.below", warmup_steps=0), Plan(8), 5)


def below(schedule: Schedule, total_steps: int, step: int) -> float:
    return -3.0


def test_every_component_of_ours_is_one() -> None:
    """As `make check` does, but for those that need torch's slow imports."""
    for kind in ("schedules", "rewards", "metrics", "scorers", "problems", "trackers"):
        for name in plugins.own(kind):
            plugins.find(kind, name, kind)


def test_a_tokenizers_folder_names_no_path(tmp_path: Path) -> None:
    (tmp_path / "codex_ray_tokenizer.json").write_text('{"component": "os.system"}')
    with pytest.raises(CodexRayError, match="none that a package here brings"):
        Tokenizer.load(tmp_path)
    with pytest.raises(CodexRayError, match="give it a name in CODEX_RAY_COMPONENTS"):
        Tokenizer.load("component:json.loads")


@pytest.mark.parametrize("word", ["schedule.kind=json.gone", "track.trackers=[json.loads]"])
def test_a_run_that_names_what_cannot_be_ends_before_anything_starts(word: str) -> None:
    with pytest.raises(ConfigError, match=word.partition("=")[0]):
        compose("pretrain", ["corpus", "train.steps=1", word])


def test_an_engine_that_cannot_be_is_refused() -> None:
    words = ["m", "method=grpo", "data.path=x", "train.steps=1", "rollout.sampler=json.loads"]
    with pytest.raises(ConfigError, match=r"rollout\.sampler=json\.loads is without 'load'"):
        compose("finetune", words)


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
