"""Which cells an ablation runs, which it goes on with, and what its tests say."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from codex_ray.config.check import check
from codex_ray.config.compose import compose
from codex_ray.config.discover import ARMS, Ablation, Discover
from codex_ray.discover.ablation import Cell, Outcome, ablation, best_cells, cells_of, comparisons
from codex_ray.discover.problem import find_problem
from codex_ray.errors import ConfigError, Interrupted
from codex_ray.track.progress import Progress

ERDOS = find_problem("erdos_min_overlap", None, {})
CIRCLES = find_problem("circle_packing_26", None, {})


def outcomes(*best: float) -> dict[int, Outcome]:
    return {seed: Outcome(one, 100.0, 0.5) for seed, one in enumerate(best)}


def test_the_grid_has_every_cell_once_and_an_arm_without_training_one() -> None:
    settings = Ablation(arms=["full", "untrained"], learning_rates=[1e-3, 3e-3], shapings=[0.1, 0.3, 1.0])
    cells = cells_of(settings)
    assert len(cells) == len(set(cells)) == 7
    assert [cell for cell in cells if cell.arm == "untrained"] == [Cell("untrained", 1e-3, 0.1)]
    assert {arm: ARMS[arm] for arm in ("full", "best_of_n")} == {
        "full": ("puct", "adaptive"),
        "best_of_n": ("seeds", "none"),
    }


def test_the_best_cell_is_by_the_direction_and_over_common_seeds() -> None:
    low, high = Cell("full", 1e-3, 0.1), Cell("full", 1e-3, 0.3)
    done = {low: outcomes(0.381, 0.383), high: outcomes(0.385, 0.384, 0.1)}
    assert best_cells(done, ["full"], ERDOS) == {"full": low}
    assert best_cells(done, ["full"], CIRCLES) == {"full": high}


def test_arms_are_compared_pair_by_pair() -> None:
    first, other = Cell("full", 1e-3, 0.1), Cell("expected", 1e-3, 0.1)
    ours = [0.3829, 0.3830, 0.3828, 0.3831, 0.3827, 0.3832, 0.3826, 0.3833]
    theirs = [one + 0.0003 + 0.00001 * place for place, one in enumerate(ours)]
    done = {first: outcomes(*ours), other: outcomes(*theirs, 9.0)}
    (found,) = comparisons(done, {"full": first, "expected": other})
    assert found.pairs == 8 and found.mean_difference == pytest.approx(-0.000335)
    assert found.wilcoxon_p == pytest.approx(2 / 2**8)  # every pair on the same side
    assert 0 < found.mann_whitney_p < 0.1
    (same,) = comparisons(
        {first: outcomes(*ours), other: outcomes(*ours)}, {"full": first, "expected": other}
    )
    assert same.wilcoxon_p is None and same.mean_difference == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["arms=[full,full]"], "names one twice"),
        (["learning_rates=[]"], "is empty"),
        (["grid_seeds=9"], "grid_seeds=9 is more than seeds=8"),
        (["arms=[best]"], "must be one of"),
        (["rollout.staleness=1"], "rollout.staleness=0"),
        (["rollout.temperature=0"], "own distribution"),
        (["rollout.failure_reward=1"], "what is no solution"),
        (["forced=so"], "rollout.turn_tokens go together"),
        (["rollout.turn_tokens=8"], "go together"),
        (["rollout.turn_tokens=128", "forced=so"], "leaves nothing"),
        (["train.epochs=1"], "give train.steps"),
        (["train.spike_factor=3"], "train.spike_factor has no meaning"),
        (["validation.rows=8"], "validation.rows has no meaning"),
        (["learn.objective=expected", "learn.divergence=1"], "learn.divergence is for"),
        (["search.samples=1"], "search.samples"),
    ],
)
def test_settings_that_cannot_be_are_refused(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check(compose("discover ablation", words))


def test_discover_and_its_verbs_compose() -> None:
    settings = compose("discover", ["arithmetic", "runs/policy", "search.groups=2"])
    assert settings.problem == "arithmetic" and settings.model == "runs/policy"
    assert settings.optimizer.clip_norm == 0 and settings.train.steps == 50
    assert compose("discover ablation", []).optimizer.clip_norm == 0
    assert compose("discover compare", ["a", "b"]).names == ["a", "b"]


def test_what_is_done_is_not_done_again_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Ablation(
        problem="arithmetic", runs=str(tmp_path), name="table", arms=["full", "untrained"], seed=5,
        learning_rates=[1e-3, 3e-3], shapings=[0.1], grid_seeds=1, seeds=2,
    )  # fmt: skip
    folder = tmp_path / "table"
    begun: list[Discover] = []

    def pretended(one: Discover, progress: Progress) -> SimpleNamespace:
        """What a search leaves, without it."""
        begun.append(one)
        run = folder / str(one.name)
        (run / "model").mkdir(parents=True)
        best = 0.01 * one.seed * (1 if one.learn.objective == "adaptive" else 2) + one.optimizer.learning_rate
        told = {"discover/best": best, "discover/rollouts": 64.0, "discover/valid_share": 0.5}
        (run / "summary.json").write_text(json.dumps(told))
        return SimpleNamespace(training=SimpleNamespace(completed=True))

    monkeypatch.setattr("codex_ray.discover.ablation.discover", pretended)
    monkeypatch.setattr("codex_ray.discover.ablation.open_session", lambda *_, **__: nullcontext({}))
    path = ablation(settings, Progress("off"))
    assert [one.name for one in begun] == [
        "full_lr0.001_l0.1_s5", "full_lr0.003_l0.1_s5", "untrained_lr0.001_l0.1_s5",
        "full_lr0.001_l0.1_s6", "untrained_lr0.001_l0.1_s6",
    ]  # fmt: skip
    assert {(one.seed, one.search.select) for one in begun} == {(5, "puct"), (6, "puct")}
    told = json.loads(path.read_text())
    assert told["best_cells"]["full"]["learning_rate"] == 1e-3 and len(told["grid"]) == 3
    (compared,) = told["comparisons"]
    assert compared["pairs"] == 2 and compared["mean_difference"] == pytest.approx(-0.055)
    shown = capsys.readouterr().out
    assert "full - untrained" in shown and "Wilcoxon p" in shown
    assert "The whole grid" in (folder / "report.html").read_text()
    assert ablation(settings, Progress("off")) == path and len(begun) == 5


def test_one_that_is_stopped_says_how_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(one: Discover, progress: Progress) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("codex_ray.discover.ablation.discover", stopped)
    monkeypatch.setattr("codex_ray.discover.ablation.open_session", lambda *_, **__: nullcontext({}))
    with pytest.raises(Interrupted, match="stopped after 0 of 16 runs; run the same command again"):
        ablation(Ablation(problem="arithmetic", runs=str(tmp_path), arms=["full", "naive"]), Progress("off"))
