"""Objectives give the same losses at every ZeRO stage as in one process, whatever a rank holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.objective_runs import ADAPTER_OFF, KINDS, engine_runs, plain_run

pytestmark = pytest.mark.integration


def compared(runs: list[dict[str, Any]], folder: Path) -> None:
    for run, (losses, figures) in zip(runs, engine_runs(2, runs, folder), strict=True):
        plain_losses, plain_figures = plain_run(run["kind"], run.get("adapter", False))
        assert losses == pytest.approx(plain_losses, rel=2e-4, abs=2e-5), run
        assert figures == pytest.approx(plain_figures, rel=1e-3, abs=1e-4), run
        assert len(set(losses)) == len(losses)


def test_objectives_at_stages_one_and_three(tmp_path: Path) -> None:
    compared([{"kind": "ppo", "stage": 1}, {"kind": "sdft", "stage": 3}], tmp_path)


@pytest.mark.verify
def test_logits_in_parts_second_weights_in_checkpoints_and_low_precision(tmp_path: Path) -> None:
    runs: list[dict[str, Any]] = []
    for stage in (0, 1, 2, 3):
        folder = str(tmp_path / f"{stage}")
        runs += [
            {"kind": "sdft", "stage": stage, "logits_at_once": 300},
            {"kind": "ppo", "stage": stage, "logits_at_once": 300},
            {"kind": "dpo", "stage": stage, "last": 2, "save": folder},
            {"kind": "dpo", "stage": stage, "first": 2, "load": folder},
            {"kind": "sdft", "stage": stage, "last": 2, "save": f"{folder}s"},
            {"kind": "sdft", "stage": stage, "first": 2, "load": f"{folder}s"},
            {"kind": "sdft", "stage": max(1, stage), "dtype": "bfloat16"},
        ]
    results = [losses for losses, _ in engine_runs(2, runs, tmp_path)]
    plain, valued, paired = (plain_run(kind, False)[0] for kind in ("sdft", "ppo", "dpo"))
    for stage in (0, 1, 2, 3):
        parts, values, *frozen, before, after, low = results[7 * stage : 7 * stage + 7]
        assert parts == pytest.approx(plain, rel=2e-4) and values == pytest.approx(valued, rel=2e-4, abs=2e-5)
        assert [*before, *after] == pytest.approx(plain, rel=2e-4), stage
        assert [*frozen[0], *frozen[1]] == pytest.approx(paired, rel=2e-4), stage
        assert low == pytest.approx(plain, rel=0.1), stage


@pytest.mark.verify
@pytest.mark.parametrize("adapter", [False, True], ids=["whole", "adapter"])
def test_every_objective_at_every_stage(adapter: bool, tmp_path: Path) -> None:
    runs = [{"kind": kind, "stage": stage, "adapter": adapter} for kind in KINDS for stage in (0, 1, 2, 3)]
    if adapter:  # the base is what the adapter's own beginning is
        runs += [{"kind": ADAPTER_OFF, "stage": stage, "adapter": True} for stage in (0, 1, 2, 3)]
        assert plain_run(ADAPTER_OFF, True)[0] == pytest.approx(plain_run("dpo", True)[0], rel=1e-5)
    compared(runs, tmp_path)
