"""The problems that are here, by name, and the languages that each can be written in: where they are made.

Named as text, so that reading this table imports nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

OPERATORS, TEXT = "operators", "text"

PROBLEMS: Mapping[str, Mapping[str, str]] = {
    "erdos_min_overlap": {OPERATORS: "codex_ray.discover.problems.erdos.ErdosOperators"},
    "autocorrelation_first": {OPERATORS: "codex_ray.discover.problems.autocorrelation.FirstOperators"},
    "autocorrelation_second": {OPERATORS: "codex_ray.discover.problems.autocorrelation.SecondOperators"},
    "circle_packing_26": {OPERATORS: "codex_ray.discover.problems.circles.TwentySix"},
    "circle_packing_32": {OPERATORS: "codex_ray.discover.problems.circles.ThirtyTwo"},
    "low_autocorrelation": {OPERATORS: "codex_ray.discover.problems.labs.SequenceOperators"},
    "arithmetic": {TEXT: "codex_ray.discover.problems.arithmetic.Arithmetic"},
}
