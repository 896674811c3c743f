"""The depth dial: one whole number gives the decoder's shape, its batch, its learning rate and its training.

Each rule is a function with its source. Values that are given explicitly take the place of what a rule gives,
and later rules work with them. docs/planning.md shows the rules side by side, and what was measured of them.

Notation: L layers, D hidden size, N parameters of the layers' matrices, T tokens of the whole run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from codex_ray.config.tree import Key, settings_keys

DEPTH, HORIZON = "depth", "tokens_per_parameter"
TOKENS_PER_PARAMETER = 20.0  # Chinchilla (Hoffmann 2022, arXiv 2203.15556, table 3): optimal for compute

# Width per layer. Loss hardly depends on the ratio from 30 to 200 (Kaplan 2020, arXiv 2001.08361, figure 5);
# nanochat (Karpathy 2025) takes 64 at every depth.
ASPECT_RATIO = 64

HEAD_SIZE = 64  # as GPT-2 and, up to 1 B parameters, Llama 3.2
LARGE_HEAD_SIZE, LARGE_WIDTH = 128, 2048  # as Llama 3 (arXiv 2407.21783, table 3), where it divides
MOST_KEY_VALUE_HEADS = 8  # Llama 3, table 3, after GQA (arXiv 2305.13245)

# SwiGLU has three matrices in place of two, so each gets two thirds of 4 D (arXiv 2002.05202, section 2).
MLP_RATIO, MLP_MULTIPLE = 8 / 3, 64

# Step Law (arXiv 2503.04715, eq. 1): AdamW's peak rate, and the batch in tokens.
RATE_FACTOR, RATE_OF_PARAMETERS, RATE_OF_TOKENS = 1.79, -0.713, 0.307
BATCH_FACTOR, BATCH_OF_TOKENS = 0.58, 0.571

# Models far below those of the law's runs (60 M parameters) would get more than the largest rate that these
# tried, 0.0078; with two layers half of that learns most (benchmarks/dial.py), so the law ends there.
HIGHEST_RATE = 0.0039

# Step Law's runs warm up over 2,000 steps; a short run over this share of its own.
WARMUP_STEPS, WARMUP_SHARE = 2000, 0.05

# Muon's updates have a spectral norm that does not depend on the width, so neither does its rate
# (arXiv 2310.17813, condition 1; Jordan et al. 2024).
MUON_RATE = 0.02


def derived(depth: int, tokens_per_parameter: float, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return every setting that the dial derives, by dotted name.

    Args:
        depth: layers.
        tokens_per_parameter: length of the run.
        given: explicit settings by dotted name; those that the dial derives too keep their values.
    """
    found: dict[str, Any] = {}

    def rule(name: str, value: Any) -> Any:
        found[name] = given.get(name, value)
        return found[name]

    layers = rule("model.layers", depth)
    width = rule("model.hidden_size", ASPECT_RATIO * depth)
    large = width >= LARGE_WIDTH and width % LARGE_HEAD_SIZE == 0
    head_size = rule("model.head_size", LARGE_HEAD_SIZE if large else HEAD_SIZE)
    heads = rule("model.heads", max(1, width // head_size))
    shared = rule("model.key_value_heads", math.gcd(heads, MOST_KEY_VALUE_HEADS))
    inner = rule("model.intermediate_size", mlp_width(width))
    parameters = layers * width * (2 * head_size * (heads + shared) + 3 * inner)
    tokens = tokens_per_parameter * parameters
    batch = rule("train.batch_tokens", batch_tokens(tokens))
    steps = max(1, math.ceil(tokens / batch))
    if not any(f"train.{name}" in given for name in ("steps", "epochs", "seconds")):
        rule("train.steps", steps)
    steps = given.get("train.steps", steps)
    rule("schedule.warmup_steps", max(1, min(WARMUP_STEPS, round(WARMUP_SHARE * steps))))
    rule("optimizer.learning_rate", learning_rate(parameters, tokens))
    rule("optimizer.matrix_learning_rate", MUON_RATE)
    return found


def turned(cls: type[Any], data: Mapping[str, Any], explicit: Mapping[Key, Any]) -> list[tuple[Key, Any]]:
    """Return what the dial derives wherever it is set in nested ``data`` or in ``explicit`` values."""

    def value(path: Key) -> Any:
        node: Any = data
        for part in path:
            node = node.get(part) if isinstance(node, Mapping) else None
        return explicit.get(path, node)

    found = []
    for prefix in (path[:-1] for path in settings_keys(cls) if path[-1] == DEPTH):
        depth, horizon = value((*prefix, DEPTH)), value((*prefix, HORIZON))
        horizon = TOKENS_PER_PARAMETER if horizon is None else horizon
        if not _positive(depth) or not _positive(horizon) or type(depth) is not int:
            continue  # unset; or wrong, which is said when the settings are built
        given = dict(_within(prefix, explicit))
        found += [((*prefix, *name.split(".")), new) for name, new in derived(depth, horizon, given).items()]
    return found


def _within(prefix: Key, explicit: Mapping[Key, Any]) -> Iterator[tuple[str, Any]]:
    for path, value in explicit.items():
        if path[: len(prefix)] == prefix and _positive(value):
            yield ".".join(path[len(prefix) :]), value


def _positive(value: Any) -> bool:
    return type(value) in (int, float) and value > 0


def mlp_width(width: int) -> int:
    """Return the width inside the SwiGLU feed-forward: 8/3 of D, up to the next multiple of 64."""
    return math.ceil(MLP_RATIO * width / MLP_MULTIPLE) * MLP_MULTIPLE


def batch_tokens(tokens: float) -> int:
    """Return the batch of Step Law, eq. 1, in tokens: 0.58 T^0.571, to the nearest power of two.

    A power of two divides over the usual sequence lengths and numbers of workers; the optimum is flat.
    """
    exact: float = BATCH_FACTOR * tokens**BATCH_OF_TOKENS
    return int(2 ** round(math.log2(max(1024.0, exact))))


def learning_rate(parameters: float, tokens: float) -> float:
    """Return AdamW's peak rate of Step Law, eq. 1: 1.79 N^-0.713 T^0.307, at most 0.0039, to three digits."""
    exact: float = RATE_FACTOR * parameters**RATE_OF_PARAMETERS * tokens**RATE_OF_TOKENS
    return float(f"{min(exact, HIGHEST_RATE):.3g}")
