"""Run folders as training leaves them, written at once."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import yaml

from codex_ray.track import MetricsWriter


def row(step: int, **more: Any) -> dict[str, Any]:
    figures: dict[str, Any] = {"step": step, "loss": 2 + 5 * math.exp(-step / 30), "tokens": 4096 * step}
    figures |= {"tokens_per_second": 24_000.0, "step_seconds": 0.2, "data_share": 0.01, "applied": 1}
    return figures | {"time": time.time()} | more


def write_run(
    runs: Path, name: str, steps: int, status: str | None, total: int = 100, **settings: Any
) -> Path:
    """Write a run; ``status`` None leaves its newest start without an end."""
    run = runs / name
    attempt = run / "attempts" / "1"
    attempt.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump({"seed": 1, "name": name} | settings))
    (run / "decided.json").write_text(json.dumps({"total_steps": total}))
    (run / "summary.json").write_text(json.dumps({"steps": steps, "loss": 2.0}))
    with MetricsWriter(run) as writer:
        for step in range(1, steps + 1):
            more = {"validation_loss": 2.5, "validation_bits_per_byte": 1.2} if step % 10 == 0 else {}
            writer.write(row(step, **more))
    if status is not None:
        (attempt / "outcome.json").write_text(json.dumps({"status": status, "time": time.time()}))
    return run
