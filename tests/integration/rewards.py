"""Rewards of tests' own, named by dotted path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def printed(row: Mapping[str, Any], text: str) -> float:
    """Return 1 where a program printed a number, as the sandbox lets it be read."""
    return float(re.search(r"<output>-?\d+</output>", text) is not None)
