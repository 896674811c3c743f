"""What a micro-batch makes a worker do, by part: operations of products, bytes through memory, operators.

Bytes are counted for the operators that the decoder really has, each reading its inputs from memory and
writing its result: nothing is fused but what is written as one kernel. All is forward and backward.

Notation: T tokens of a micro-batch, S of a row, D hidden size, F feed-forward, N streams, K mixing logits, Q
query width, G key and value width, V vocabulary, e bytes of a number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from codex_ray.model import CodexRayConfig
from codex_ray.model.operations import LOSS_LOGITS, LOSS_TOKENS
from codex_ray.model.recomputation import best_block
from codex_ray.plan.memory import FP32, mixing_logits

PRODUCT = 6  # operations of one weight and token: two per multiply-add, forward and twice backward

# A norm in fp32, forward: read, widen, root, scale, weigh, round; backward about thrice that.
NORM_BYTES = 112  # of one number that is held in 2 bytes or 4
NORM_LAUNCHES = 18


@dataclass(frozen=True)
class Part:
    """A part of the work of one micro-batch.

    Attributes:
        name: what it is.
        count: how often a micro-batch does it, forward and backward.
        flops: operations of its matrix products.
        bytes: read from and written to memory.
        launches: operators.
    """

    name: str
    count: float
    flops: float
    bytes: float
    launches: int


def linear_shapes(config: CodexRayConfig) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of one layer's matrices."""
    width, inner = config.hidden_size, config.intermediate_size
    query = config.num_attention_heads * config.head_dim
    narrow = config.num_key_value_heads * config.head_dim
    return {
        "query": (width, query),
        "key": (width, narrow),
        "value": (width, narrow),
        "output": (query, width),
        "gate": (width, inner),
        "up": (width, inner),
        "down": (inner, width),
    }


def parts(config: CodexRayConfig, tokens: int, length: int, size: int, recompute: str) -> list[Part]:
    """Return the parts of one micro-batch.

    Args:
        config: the decoder's.
        tokens: of a micro-batch; ``length``: of a row.
        size: bytes of a number.
        recompute: as ``train.recompute``.
    """
    layers = [
        _products(config, tokens, size),
        _attention(config, tokens, length, size),
        _norms(config, tokens),
        Part("activation", 1, 0, 14.0 * size * tokens * config.intermediate_size, 5),
        _connections(config, tokens, size, recompute),
    ]
    # Whole layers are made again by a third forward pass, where there were one forward and two backward.
    again = 4 / 3 if recompute == "layers" else 1.0
    return [
        *(replace(part, count=part.count * config.num_hidden_layers * again) for part in layers),
        _ends(config, tokens, size),
        _loss(config, tokens, size),
    ]


def _products(config: CodexRayConfig, tokens: int, size: int) -> Part:
    shapes = linear_shapes(config).values()
    weights = sum(inputs * outputs for inputs, outputs in shapes)
    edges = sum(inputs + outputs for inputs, outputs in shapes)
    passes = 3.0 * size * (tokens * edges + weights)
    return Part("products", 1, float(PRODUCT * tokens * weights), passes, 3 * len(shapes))


def _attention(config: CodexRayConfig, tokens: int, length: int, size: int) -> Part:
    """Scores over the causal half; the backward pass makes them again (arXiv 2205.14135, section 3.1)."""
    query = config.num_attention_heads * config.head_dim
    narrow = config.num_key_value_heads * config.head_dim
    forward = 2 * 2 * tokens * query * (length + 1) / 2
    return Part("attention", 1, 3.5 * forward, 3.0 * size * tokens * 2 * (query + narrow), 8)


def _norms(config: CodexRayConfig, tokens: int) -> Part:
    """Two norms of the width; of queries and keys the norm and the rotation."""
    query = config.num_attention_heads * config.head_dim
    narrow = config.num_key_value_heads * config.head_dim
    numbers = tokens * (2 * config.hidden_size + 1.5 * (query + narrow))
    return Part("norms", 1, 0, float(NORM_BYTES * numbers), 4 * NORM_LAUNCHES)


def _connections(config: CodexRayConfig, tokens: int, size: int, recompute: str) -> Part:
    """Plain: an addition per sublayer. Otherwise reading, mixing and writing streams (mHC section 4.3)."""
    width, streams = config.hidden_size, config.mixed_streams
    if streams == 1:
        return Part("connections", 2, 0, 6.0 * size * tokens * width, 2)
    logits = mixing_logits(config)
    products = streams * logits + streams * (streams + 2)
    # Passes over all streams: project, read, write; backward: write 3, gates 1, read 3, project 3.
    passes, narrow = 14, 6
    if recompute == "streams":
        sublayers = 2 * config.num_hidden_layers
        block = best_block(streams, sublayers)
        passes += 2 * (1 - 1 / block)  # type: ignore[assignment]
    bytes_moved = float(size * tokens * width * (passes * streams + narrow))
    return Part("connections", 2, float(PRODUCT * tokens * width * products), bytes_moved, 60)


def _ends(config: CodexRayConfig, tokens: int, size: int) -> Part:
    """The embedding and its gradient, entering and leaving the streams, and the last norm."""
    width, streams = config.hidden_size, config.mixed_streams
    looking_up = 4.0 * size * tokens * width + 3.0 * size * config.vocab_size * width
    leaving = tokens * width * streams * (6.0 * size + 2 * FP32) if streams > 1 else 0.0
    return Part("embedding and exit", 1, 0, looking_up + leaving + NORM_BYTES * tokens * width, 40)


def _loss(config: CodexRayConfig, tokens: int, size: int) -> Part:
    width, vocabulary = config.hidden_size, config.vocab_size
    chunks = math.ceil(tokens / max(LOSS_TOKENS, LOSS_LOGITS // vocabulary))
    passes = tokens * vocabulary * (5.0 * size + 3 * FP32) + chunks * 3.0 * FP32 * vocabulary * width
    return Part("loss", 1, float(PRODUCT * tokens * width * vocabulary), passes, 16 * chunks)
