"""When to send an alert about a running training: it has stalled, or its loss has jumped."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from codex_ray.config import common
from codex_ray.track.alerts import Alerts
from codex_ray.train.spikes import WINDOW, is_spike

SHORTEST_STALL_SECONDS = 60.0


class Alarms:
    """Watches figures as the driver sees them, by the driver's own clock.

    Args:
        settings: the ``track.alerts`` settings.
        alerts: where alerts go.
        scaled: whether losses are scaled (float16), so that gradients overflow now and then by design.
    """

    def __init__(self, settings: common.Alerts, alerts: Alerts, *, scaled: bool = False) -> None:
        self._settings, self._alerts, self._scaled = settings, alerts, scaled
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._paces: deque[float] = deque(maxlen=WINDOW)  # seconds per step
        self._strides: deque[int] = deque(maxlen=WINDOW)  # steps per row
        self._last: tuple[int, float] | None = None  # the last row's step, and when it was seen
        self._stalled = False
        self._quiet_until = 0

    def rows(self, rows: Sequence[Mapping[str, Any]], now: float | None = None) -> None:
        """Take in new rows of metrics."""
        now = time.monotonic() if now is None else now
        for row in rows:
            self._judge(row["step"], row["loss"], bool(row["applied"]))
        step = rows[-1]["step"]
        if self._last is not None and step > self._last[0]:  # else the run went back
            steps = step - self._last[0]
            self._paces.extend([(now - self._last[1]) / steps] * len(rows))
            self._strides.extend([math.ceil(steps / len(rows))] * len(rows))
        self._last, self._stalled = (step, now), False
        self._alerts.step = step

    def look(self, now: float | None = None) -> None:
        """Send an alert where no step has been done for unusually long, once."""
        now = time.monotonic() if now is None else now
        if self._last is None or self._stalled or not self._paces:
            return
        step, seen = self._last
        usual = statistics.median(self._paces)
        longest = self._settings.stall_factor * usual * max(self._strides)
        if now - seen > max(SHORTEST_STALL_SECONDS, longest):
            self._stalled = True
            self._alerts.send(
                "stall", f"no step was done for {now - seen:.0f} s, and one usually takes {usual:.3g} s", step
            )

    def _judge(self, step: int, loss: float | None, applied: bool) -> None:
        sentence = None
        if loss is None or not (applied or self._scaled):
            sentence = f"the loss or a gradient was not finite at step {step}, which was left out"
        elif is_spike(loss, self._losses, self._settings.spike_factor):
            sentence = (
                f"the loss at step {step} is {loss:.3f} and was about {statistics.median(self._losses):.3f}"
            )
        if loss is not None and math.isfinite(loss):
            self._losses.append(loss)
        if sentence is not None and step >= self._quiet_until:
            self._quiet_until = step + WINDOW  # one jump is one alert
            self._alerts.send("spike", sentence, step)
