"""Rewards of tests' own, named by dotted path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from codex_ray.rollout.rewards import places


def printed(row: Mapping[str, Any], text: str) -> float:
    """Return 1 where a program printed a number, as the sandbox lets it be read."""
    return float(re.search(r"<output>-?\d+</output>", text) is not None)


def hundred_for_products(row: Mapping[str, Any], text: str) -> float:
    """Tell questions of products from others, and let answers differ by no more than 1."""
    return 100.0 * ("*" in row["prompt"]) + places(row, text)
