"""The depth dial: its rules by hand, and how it meets other settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.config.compose import compose
from codex_ray.config.dial import batch_tokens, derived, learning_rate, mlp_width
from codex_ray.config.saved import save
from codex_ray.errors import ConfigError


def test_twelve_layers_by_hand() -> None:
    """64 x 12 wide; heads of 64, shared by the largest of 1, 2, 4, 8 that divides 12; 8/3 x 768 inside.

    N = 12 x 768 x (2 x 64 x (12 + 4) + 3 x 2048) = 75.5 M, T = 20 N = 1.51 G. Rate: 1.79 N^-0.713 T^0.307;
    batch: 0.58 T^0.571 = 100 k, to the nearest power of two.
    """
    found = derived(12, 20.0, {})
    assert found["model.hidden_size"] == 768
    assert (found["model.heads"], found["model.head_size"], found["model.key_value_heads"]) == (12, 64, 4)
    assert found["model.intermediate_size"] == 2048
    parameters = 12 * 768 * (2 * 64 * 16 + 3 * 2048)
    assert found["optimizer.learning_rate"] == pytest.approx(2.84e-3)
    assert found["train.batch_tokens"] == 131072
    assert found["train.steps"] == -(-20 * parameters // 131072)
    assert found["schedule.warmup_steps"] == round(0.05 * found["train.steps"])


def test_step_law_at_its_own_example() -> None:
    """1 B parameters and 100 B tokens: 1.79 x 3.84e-7 x 2.38e3 and 0.58 x 1.91e6."""
    assert learning_rate(1e9, 1e11) == pytest.approx(1.64e-3, rel=0.01)
    assert batch_tokens(1e11) == 2**20


def test_no_rate_is_above_the_highest_that_small_models_learn_by() -> None:
    assert learning_rate(4e5, 1e6) == learning_rate(5e4, 1e6) == 0.0039


def test_the_inside_of_the_feed_forward_is_eight_thirds_to_the_next_64() -> None:
    assert [mlp_width(width) for width in (64, 192, 384, 4096)] == [192, 512, 1024, 10944]


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 128), st.floats(0.1, 1000))
def test_every_depth_gives_settings_that_can_be_built(depth: int, horizon: float) -> None:
    words = ["depth=" + str(depth), f"tokens_per_parameter={horizon}"]
    composed = compose("pretrain", words)
    model = composed.model
    assert (model.layers, model.hidden_size) == (depth, 64 * depth)
    assert model.heads * model.head_size == model.hidden_size
    assert model.heads % model.key_value_heads == 0
    assert composed.train.batch_tokens >= 1024
    assert composed.schedule.warmup_steps <= max(1, composed.train.steps)


@given(st.integers(1, 60))
def test_deeper_is_slower_to_learn_and_takes_more_at_a_time(depth: int) -> None:
    shallow, deep = derived(depth, 20.0, {}), derived(depth + 12, 20.0, {})
    assert deep["optimizer.learning_rate"] < shallow["optimizer.learning_rate"] <= 0.0039
    assert deep["train.batch_tokens"] >= shallow["train.batch_tokens"]


def test_explicit_values_stand_and_later_rules_work_with_them() -> None:
    words = ["depth=4", "model.hidden_size=512", "optimizer.learning_rate=1e-3", "train.epochs=2"]
    found = compose("pretrain", words)
    assert (found.model.hidden_size, found.model.heads, found.model.layers) == (512, 8, 4)
    assert found.optimizer.learning_rate == 1e-3
    assert (found.train.epochs, found.train.steps) == (2, None)


def test_the_warm_up_is_a_share_of_the_steps_that_are_given() -> None:
    found = compose("pretrain", ["depth=12", "train.steps=100"])
    assert (found.train.steps, found.schedule.warmup_steps) == (100, 5)


def test_the_dial_lies_over_groups_and_keeps_what_it_does_not_derive() -> None:
    found = compose("pretrain", ["depth=3", "model=plain-small", "optimizer=muon"])
    assert (found.model.hidden_size, found.model.residual.kind) == (192, "plain")
    assert (found.optimizer.kind, found.optimizer.matrix_learning_rate) == ("muon", 0.02)


def test_without_a_depth_nothing_is_derived() -> None:
    assert compose("pretrain").model.hidden_size == 192
    assert compose("pretrain", ["tokens_per_parameter=5"]).train.epochs == 1.0


def test_the_dial_of_the_quickstart_is_its_training_s() -> None:
    found = compose("quickstart", ["pretrain.depth=2"])
    assert (found.pretrain.model.hidden_size, found.pretrain.train.steps) == (128, 2080)


def test_a_resolved_file_runs_again_as_it_was_and_takes_no_other_depth(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    found = compose("pretrain", ["depth=4", "model.layers=5"])
    save(found, path)
    assert compose("pretrain", [], path) == found == compose("pretrain", ["depth=4"], path)
    with pytest.raises(ConfigError, match=r"depth=6 cannot be laid over --config .* which sets depth: 4"):
        compose("pretrain", ["depth=6"], path)


@pytest.mark.parametrize(("word", "sentence"), [("depth=0", "at least 1"), ("depth=2.5", "whole number")])
def test_impossible_depths_are_refused(word: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        compose("pretrain", [word])
