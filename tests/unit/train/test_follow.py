"""The closing figures stand for all steps, also those without a row."""

from __future__ import annotations

import pytest

from codex_ray.train.follow import over_steps


def test_a_row_stands_for_the_steps_since_the_row_before() -> None:
    every = [{"step": step, "step_seconds": 0.5} for step in range(1, 31)]
    tenth = [row for row in every if row["step"] % 10 == 0 or row["step"] in (13, 14)]
    for after in (0, 10, 12, 30):
        for rows in (every, tenth):
            assert over_steps(rows, "step_seconds", after) == pytest.approx(0.5 * (30 - after))
    assert over_steps([], "step_seconds") == 0.0
