"""The problems that are here, by name, and the languages that each can be written in: where they are made.

Named as text, so that reading this table imports nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

OPERATORS = "operators"

PROBLEMS: Mapping[str, Mapping[str, str]] = {
    "erdos_min_overlap": {OPERATORS: "codex_ray.discover.problems.erdos.ErdosOperators"},
}
