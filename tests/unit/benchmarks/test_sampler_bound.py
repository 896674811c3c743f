"""The least time of the sampler's work: what a step reads and multiplies, counted by hand."""

from __future__ import annotations

import pytest
import torch

from benchmarks.samplers.work import (
    LAYERS,
    WIDTH,
    Machine,
    Work,
    _steps,
    least_seconds,
    make_model,
    product_seconds,
)


def test_requests_take_turns_in_the_slots() -> None:
    work = Work([[1] * 3, [1] * 5, [1] * 7], [2, 1, 2])
    assert list(_steps(work, 2)) == [(2, 3 + 5), (2, 4 + 7), (1, 8)]
    assert sum(rows for rows, _ in _steps(work, 2)) == work.tokens


def test_a_step_takes_as_long_as_the_slower_of_reading_and_multiplying() -> None:
    model, work = make_model("llama", torch.bfloat16), Work([[1] * 3], [2])
    weights = sum(one.numel() for one in model.parameters() if one.dim() == 2)
    kept = [2 * LAYERS * WIDTH * past for past in (3, 4)]
    reading = Machine(bytes_per_second=1.0, flops=1e30)
    assert least_seconds(model, work, 1, reading) == pytest.approx(2 * (2 * weights + sum(kept)))
    multiplying = Machine(bytes_per_second=1e30, flops=1.0)
    assert least_seconds(model, work, 1, multiplying) == pytest.approx(2 * (5 * weights + sum(kept)))
    assert 0 < product_seconds(model, work, 1, multiplying) < 60
