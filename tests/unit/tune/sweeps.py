"""Sweeps for the tests of their parts; nothing of them is run."""

from __future__ import annotations

from typing import Any

from codex_ray.config.sweep import Searching, Sweep


def a_sweep(space: dict[str, Any], run: dict[str, Any] | None = None, **search: Any) -> Sweep:
    """Return a sweep of pretrain over ``space``."""
    return Sweep(
        paths=["corpus"], run={"model": "mhc-tiny"} | (run or {}), sweep=Searching(space=space, **search)
    )
