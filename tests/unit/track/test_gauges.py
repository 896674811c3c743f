"""Gauges: which figures they are given, and when."""

from __future__ import annotations

from typing import Any

import pytest

from codex_ray.track.gauges import RunGauges


def test_the_last_row_and_late_validations_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[str, float] = {}

    def keep(self: Any, value: float, tags: dict[str, str]) -> None:
        assert tags == {"run": "mine"}
        shown[self.info["name"]] = value

    monkeypatch.setattr("ray.util.metrics.Gauge.set", keep)
    gauges = RunGauges("mine")
    gauges.set({"step": 1, "loss": 3.0})
    gauges.set({"step": 2, "loss": 2.0})  # within the same second
    gauges.validated(1, 2.5)
    assert shown == {"codex_ray_step": 1, "codex_ray_loss": 3.0, "codex_ray_validation_loss": 2.5}
    gauges.close()
    assert (shown["codex_ray_step"], shown["codex_ray_loss"]) == (2, 2.0)
    gauges.set({"step": 3, "loss": 1.5, "validation_loss": 1.75})
    gauges.validated(2, 2.0)  # older than what is known
    gauges.close()
    assert (shown["codex_ray_step"], shown["codex_ray_validation_loss"]) == (3, 1.75)
