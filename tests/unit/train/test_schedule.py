from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_ray.config.train import Schedule, Training
from codex_ray.train.batches import Batches
from codex_ray.train.schedule import Plan, learning_rate_share

KINDS = ["cosine", "wsd", "linear", "constant"]


def test_plan_counts_optimizer_steps_from_epochs() -> None:
    def steps(**given: Any) -> int | None:
        training = Training(batch_tokens=16 * 8, **given)
        return Plan.of(training, rows=100, batches=Batches.of(training, 8, 2)).total_steps

    assert steps(epochs=1.5) == 10
    assert steps(steps=7) == 7
    assert steps(epochs=0.0001) == 1
    assert steps(epochs=1.0, batch_ramp=[[4 * 8, 5]]) == 5 + 5


def test_warmup_is_linear_and_never_zero() -> None:
    schedule = Schedule(kind="cosine", warmup_steps=4)
    shares = [learning_rate_share(schedule, Plan(100), step) for step in range(5)]
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_cosine_ends_at_its_final_share() -> None:
    schedule = Schedule(kind="cosine", warmup_steps=0, final_share=0.1)
    assert learning_rate_share(schedule, Plan(10), 0) == 1.0
    assert learning_rate_share(schedule, Plan(10), 5) == pytest.approx(0.55)
    assert learning_rate_share(schedule, Plan(10), 10) == pytest.approx(0.1)


def test_wsd_holds_the_peak_and_then_falls_linearly() -> None:
    schedule = Schedule(kind="wsd", warmup_steps=2, decay_share=0.5)
    shares = [learning_rate_share(schedule, Plan(20), step) for step in range(20)]
    assert shares[2:11] == [1.0] * 9
    assert shares[15] == pytest.approx(0.5)
    assert shares[19] == pytest.approx(0.1)


@given(st.sampled_from(KINDS), st.integers(0, 50), st.integers(1, 500), st.integers(0, 600))
def test_share_stays_between_zero_and_one(kind: str, warmup: int, total: int, step: int) -> None:
    schedule = Schedule(kind=kind, warmup_steps=warmup, final_share=0.05)
    assert 0.0 < learning_rate_share(schedule, Plan(total), step) <= 1.0


def test_a_run_in_seconds_decides_once_and_spends_the_rest_decaying() -> None:
    schedule = Schedule(kind="wsd", warmup_steps=0, decay_share=0.5)
    plan = Plan(None, seconds=100.0)
    assert plan.decide(schedule, 10, 49.9) == plan
    decided = plan.decide(schedule, 10, 50.0)
    assert decided.total_steps == 20
    assert decided.decide(schedule, 15, 90.0) == decided
    assert learning_rate_share(schedule, plan, 9) == learning_rate_share(schedule, decided, 9) == 1.0


def test_a_constant_run_in_seconds_ends_when_its_time_is_up() -> None:
    plan = Plan(None, seconds=10.0).decide(Schedule(kind="constant"), 33, 10.5)
    assert plan.total_steps == 33 and plan.done(33)
