"""A run's figures as Prometheus gauges, through Ray's own metrics: what the Grafana board draws.

Ray puts ``ray_`` before each name and serves them on every node; the label ``run`` names the run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

EVERY_SECONDS = 1.0
# Names in Prometheus, the figures of a metrics row they show, and what these are.
GAUGES = {
    "codex_ray_step": ("step", "Optimizer steps done"),
    "codex_ray_loss": ("loss", "Training loss, nats per token"),
    "codex_ray_validation_loss": ("validation_loss", "Loss on held-out rows, nats per token"),
    "codex_ray_learning_rate": ("learning_rate", "Learning rate of AdamW's parameters"),
    "codex_ray_gradient_norm": ("grad_norm", "Gradient norm before clipping"),
    "codex_ray_tokens_per_second": ("tokens_per_second", "Tokens per second over all workers"),
    "codex_ray_mfu": ("mfu", "Share of the peak floating-point rate"),
    "codex_ray_step_seconds": ("step_seconds", "Seconds of an optimizer step"),
    "codex_ray_data_wait_share": ("data_share", "Share of a step spent waiting for its batch"),
}


class RunGauges:
    """Sets a run's gauges, at most once a second; made in a Ray worker.

    Args:
        run: the run's name.
    """

    def __init__(self, run: str) -> None:
        from ray.util.metrics import Gauge

        self._tags = {"run": run}
        self._gauges = {name: Gauge(name, what, tag_keys=("run",)) for name, (_, what) in GAUGES.items()}
        self._set_at = 0.0
        self._validated = 0  # the step of the newest validation
        self._left: Mapping[str, Any] = {}  # a row that came too soon after the one before

    def set(self, row: Mapping[str, Any]) -> None:
        """Show the figures of a row; those that it does not have stay as they are."""
        now = time.monotonic()
        if now - self._set_at < EVERY_SECONDS and "validation_loss" not in row:
            self._left = row
            return
        self._set_at, self._left = now, {}
        if "validation_loss" in row:
            self._validated = row["step"]
        self._show(row)

    def validated(self, step: int, loss: float) -> None:
        """Show the loss of an earlier step that was measured beside training, unless a newer one is known."""
        if step > self._validated:
            self._validated = step
            self._show({"validation_loss": loss})

    def close(self) -> None:
        """Show the last row."""
        self._show(self._left)

    def _show(self, row: Mapping[str, Any]) -> None:
        for name, (figure, _) in GAUGES.items():
            value = row.get(figure)
            if isinstance(value, int | float):
                self._gauges[name].set(value, self._tags)
