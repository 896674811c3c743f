"""The problems that are here, by name, and the languages that each can be written in: where they are made.

Named as text, so that reading this table imports nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

OPERATORS, PYTHON, TEXT = "operators", "python", "text"
COMMAND = "command"

PROBLEMS: Mapping[str, Mapping[str, str]] = {
    "erdos_min_overlap": {
        OPERATORS: "codex_ray.discover.problems.erdos.ErdosOperators",
        PYTHON: "codex_ray.discover.problems.python.ErdosPrograms",
    },
    "autocorrelation_first": {
        OPERATORS: "codex_ray.discover.problems.autocorrelation.FirstOperators",
        PYTHON: "codex_ray.discover.problems.python.FirstPrograms",
    },
    "autocorrelation_second": {
        OPERATORS: "codex_ray.discover.problems.autocorrelation.SecondOperators",
        PYTHON: "codex_ray.discover.problems.python.SecondPrograms",
    },
    "circle_packing_26": {
        OPERATORS: "codex_ray.discover.problems.circles.TwentySix",
        PYTHON: "codex_ray.discover.problems.python.TwentySixPrograms",
    },
    "circle_packing_32": {
        OPERATORS: "codex_ray.discover.problems.circles.ThirtyTwo",
        PYTHON: "codex_ray.discover.problems.python.ThirtyTwoPrograms",
    },
    "low_autocorrelation": {OPERATORS: "codex_ray.discover.problems.labs.SequenceOperators"},
    "deliveries": {PYTHON: "codex_ray.discover.problems.deliveries.Deliveries"},
    "kernel_speed": {PYTHON: "codex_ray.discover.problems.kernel.Kernel"},
    "denoising": {PYTHON: "codex_ray.discover.problems.denoising.Denoising"},
    COMMAND: {TEXT: "codex_ray.discover.problems.command.Command"},
    "arithmetic": {TEXT: "codex_ray.discover.problems.arithmetic.Arithmetic"},
}
