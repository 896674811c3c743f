"""The shipped recipes: each is resolved, printed by --dry-run, and planned for what it is made for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from codex_ray.cli import main
from codex_ray.config.compose import compose
from codex_ray.config.groups import group_choices
from codex_ray.config.plan import CARDS as CARD_NAMES
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.plan.cards import CARDS
from codex_ray.plan.verb import _card, _machine_bytes, not_counted, planned_run

# Recipe: vocabulary, card, and bounds of its parameters.
ON_CARDS = {
    "gpu-120m": (32768, "H100", 115e6, 125e6),
    "h200-1b": (32768, "H200", 1.0e9, 1.2e9),
    "h200-7b": (32768, "H200", 7.0e9, 7.5e9),
    "multinode-70b": (32768, "H200", 68e9, 71e9),
}
ON_CPUS = ("cpu-tiny", "cpu-20m")


def test_every_recipe_is_tested_here_or_by_a_run() -> None:
    assert set(group_choices("recipe")) == {*ON_CARDS, *ON_CPUS, "quickstart", "smoke"}
    assert set(CARD_NAMES) == set(CARDS)


@pytest.mark.parametrize("recipe", [*ON_CPUS, *ON_CARDS])
def test_a_recipe_is_resolved_by_a_dry_run(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "corpus", f"recipe={recipe}", "--dry-run"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["residual"]["kind"] == "mhc"
    assert printed["cluster"]["workers"] == compose("pretrain", [f"recipe={recipe}"]).cluster.workers


@pytest.mark.parametrize("recipe", ON_CARDS)
def test_a_recipe_for_cards_fits_and_is_planned(recipe: str, tmp_path: Path) -> None:
    vocabulary, card, least, most = ON_CARDS[recipe]
    output = tmp_path / "plan.json"
    words = [f"recipe={recipe}", f"card={card}", f"vocabulary_size={vocabulary}", f"output={output}"]
    words += ["corpus=none", "train.steps=10000", "node_price=25"]
    assert main(["plan", *words]) == 0
    data = json.loads(output.read_text())
    assert least < data["parameters"] < most
    chosen = data["memory"][str(data["stage"])][data["recompute"]]
    assert chosen["total"] < 0.9 * CARDS[card].memory
    assert 0.1 < data["mfu"] < 0.65
    assert 0.9 < data["goodput"] <= data["best_goodput"] * 1.001 <= 1.001
    assert data["seconds"] > data["steps"] * data["step"]["total"]
    assert data["price"] == pytest.approx(data["seconds"] / 3600 * data["nodes"] * 25)


def test_without_a_corpus_the_plan_asks_for_what_it_would_say() -> None:
    with pytest.raises(ConfigError, match=r"no corpus in none, so the plan needs vocabulary_size"):
        planned_run(compose("plan", ["none", "recipe=h200-7b", "card=H200"]))


def test_a_run_for_gpus_needs_a_card_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codex_ray.plan.verb.nvidia_smi", lambda *_: [])
    with pytest.raises(CodexRayError, match=r"this machine has no GPU; say what is planned for: card=A100"):
        planned_run(compose("plan", ["none", "recipe=h200-7b", "vocabulary_size=32768"]))
    with pytest.raises(ConfigError, match=r"card=cpu cannot go with compute.device=cuda"):
        compose("plan", ["none", "recipe=h200-7b", "card=cpu"])


@pytest.mark.parametrize(
    ("name", "mebibytes", "mig", "memory"),
    [
        ("NVIDIA A100-SXM4-80GB", "81920", "Disabled", 81920 * 2**20),
        ("NVIDIA A100-SXM4-40GB", "40960", "[N/A]", 40960 * 2**20),
        ("NVIDIA H100 80GB HBM3", "[N/A]", "Disabled", CARDS["H100"].memory),
        ("NVIDIA H100 80GB HBM3", "81559", "Enabled", None),
        ("NVIDIA H100 PCIe", "81559", "Disabled", None),
        ("NVIDIA H100 NVL", "95830", "Disabled", None),
        ("NVIDIA GB200", "189471", "Disabled", None),
    ],
)
def test_this_machine_s_card_is_known_by_its_name(
    name: str, mebibytes: str, mig: str, memory: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"name": name, "memory.total": mebibytes, "mig.mode.current": mig}
    monkeypatch.setattr("codex_ray.plan.verb.nvidia_smi", lambda *_: [told])
    settings = compose("plan", ["none", "recipe=gpu-120m"])
    if memory is None:
        with pytest.raises(CodexRayError, match=f"this machine's {name} is not known"):
            _card(settings)
    else:
        card = _card(settings)
        assert card is not None and card.memory == memory and card.name in name


def test_a_checkpoint_of_muon_has_one_moment_of_matrices() -> None:
    words = ["none", "recipe=gpu-120m", "card=H100", "vocabulary_size=32768"]
    adamw, muon = (
        planned_run(compose("plan", [*words, f"optimizer={kind}"])).checkpoint_bytes
        for kind in ("adamw", "muon")
    )
    parameters = adamw / 14
    assert 10 * parameters < muon < 11.5 * parameters


def test_a_run_that_is_saved_too_rarely_does_not_end(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["recipe=h200-7b", "card=H200", "vocabulary_size=32768", "train.steps=1000"]
    words += ["node_failure_hours=0.01", "checkpoints.every=1000"]
    assert main(["plan", "none", *words]) == 0
    told = capsys.readouterr().out
    assert "the run would not end; give checkpoints.every=" in told and "not known" not in told


def test_the_batch_must_divide_over_every_number_of_workers() -> None:
    words = ["none", "recipe=h200-7b", "card=H200", "vocabulary_size=32768", "cluster.min_workers=7"]
    with pytest.raises(ConfigError, match="over 7 to 8 workers"):
        planned_run(compose("plan", words))


def test_memory_of_this_machine_is_what_its_control_group_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codex_ray.plan.verb.memory_bytes", lambda: {"total": 64 * 2**30, "limit": 2**30})
    assert _machine_bytes() == 2**30
    monkeypatch.setattr("codex_ray.plan.verb.memory_bytes", lambda: {"total": 64 * 2**30, "limit": None})
    assert _machine_bytes() == 64 * 2**30


def test_more_nodes_fail_more_often_and_cost_more() -> None:
    words = [
        "none",
        "recipe=h200-7b",
        "card=H200",
        "vocabulary_size=32768",
        "train.steps=1000",
        "node_price=1",
    ]
    one, four = (planned_run(compose("plan", [*words, f"cluster.workers={workers}"])) for workers in (8, 32))
    assert (one.nodes, four.nodes) == (1, 4)
    assert four.best_goodput < one.best_goodput
    assert four.step.total < one.step.total
    assert four.chosen.total < one.chosen.total


def test_what_a_plan_leaves_out_is_named() -> None:
    words = ["none", "recipe=h200-7b", "train.ema_decay=0.99", "cluster.sequence_parallel=2"]
    words.append(
        "deepspeed.config={zero_optimization: {offload_optimizer: {device: cpu}}, wall_clock_breakdown: true}"
    )
    named = ["train.ema_decay", "cluster.sequence_parallel (its exchanges)"]
    named += [f"deepspeed.config ({key})" for key in ("offload_optimizer", "wall_clock_breakdown")]
    assert not_counted(compose("plan", words)) == named
    assert not_counted(compose("plan", ["none", "recipe=h200-7b"])) == []


def test_workers_that_share_rows_have_half_of_each() -> None:
    words = ["none", "recipe=h200-7b", "card=H200", "vocabulary_size=32768"]
    plans = (planned_run(compose("plan", [*words, f"cluster.sequence_parallel={n}"])) for n in (1, 2))
    alone, shared = plans
    assert shared.batch.accumulation == 2 * alone.batch.accumulation
    assert shared.batch.global_rows == alone.batch.global_rows
    assert shared.chosen.activations == pytest.approx(alone.chosen.activations / 2, rel=0.01)
    assert sum(shared.step.parts.values()) == pytest.approx(sum(alone.step.parts.values()), rel=0.01)
