"""The verb ``inspect``: what a model consists of, what it needs in memory and what a token costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from codex_ray.config.use import Inspect
from codex_ray.model.flops import FORWARD_AND_BACKWARD, flops_per_token
from codex_ray.model.load import load_config
from codex_ray.model.roles import optimizer_role

LONGEST = 2048  # tokens per row, where nothing else is asked for
PREFIXES = ("", "k", "M", "G", "T", "P", "E")
BYTES = {"float32": 4, "bfloat16": 2}

# Adam's two moments and, below fp32, the exact copy of the weights.
STATE_BYTES = {"float32": 8, "bfloat16": 12}


@dataclass(frozen=True)
class Inspection:
    """What ``inspect`` found.

    Attributes:
        name: the model's folder or Hub name.
        family: its model type.
        parts: parameters by part, in the order of the model.
        roles: parameters by what the optimizer makes of them.
        parameters: all of them, shared ones once.
        memory: bytes per worker of weights, gradients and Adam's state, by precision and ZeRO stage.
        workers: workers that share it.
        cache_bytes: of one token's keys and values, in bf16.
        sequence_length: tokens per row for which the operations are counted.
        training_flops: floating-point operations of one token, forward and backward.
        generation_flops: of one token in the middle of such a row.
    """

    name: str
    family: str
    parts: dict[str, int]
    roles: dict[str, int]
    parameters: int
    memory: dict[str, dict[int, float]]
    workers: int
    cache_bytes: int
    sequence_length: int
    training_flops: float
    generation_flops: float


def inspect(settings: Inspect) -> Inspection:
    """Look at a model and print it.

    Raises:
        CodexRayError: the model is missing or its configuration cannot be read.
    """
    config = load_config(settings.model, settings.revision)
    text = config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None) or LONGEST
    inspection = inspected(
        config,
        name=settings.model,
        sequence_length=settings.sequence_length or min(longest, LONGEST),
        workers=settings.workers,
    )
    _print(inspection)
    return inspection


def inspected(config: PreTrainedConfig, *, name: str, sequence_length: int, workers: int) -> Inspection:
    """Return the figures of a causal language model with this configuration; no weights are made."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    parts: dict[str, int] = {}
    roles: dict[str, int] = {}
    for path, parameter in model.named_parameters():
        part, role = _part(path), optimizer_role(path, tuple(parameter.shape))
        parts[part] = parts.get(part, 0) + parameter.numel()
        roles[role] = roles.get(role, 0) + parameter.numel()
    parameters = sum(parts.values())
    training = flops_per_token(config, sequence_length)
    text = config.get_text_config()
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return Inspection(
        name=name,
        family=config.model_type,
        parts=parts,
        roles=roles,
        parameters=parameters,
        memory={dtype: _memory(parameters, dtype, workers) for dtype in BYTES},
        workers=workers,
        cache_bytes=2 * text.num_hidden_layers * heads * head_size * BYTES["bfloat16"],
        sequence_length=sequence_length,
        training_flops=training,
        generation_flops=training / FORWARD_AND_BACKWARD,
    )


def _part(path: str) -> str:
    """Name a parameter's part of the model: what its layer calls it, the same in all layers."""
    names = path.removeprefix("model.").removeprefix("transformer.").split(".")[:-1]
    inside = [name for name in names if not name.isdigit()]
    return ".".join(inside[:2]) if inside else path


def _memory(parameters: int, dtype: str, workers: int) -> dict[int, float]:
    """Bytes per worker at each ZeRO stage: 1 shards Adam's state, 2 gradients too, 3 weights too."""
    weights = gradients = float(parameters * BYTES[dtype])
    state = float(parameters * STATE_BYTES[dtype])
    found = {}
    for stage in range(4):
        shares = [weights, gradients, state]
        for sharded in range(stage):
            shares[2 - sharded] /= workers
        found[stage] = sum(shares)
    return found


def _print(inspection: Inspection) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{inspection.name}: {inspection.family}, {inspection.parameters:,} parameters")
    parts = _table("part", "parameters", "share")
    for name, count in inspection.parts.items():
        parts.add_row(name, f"{count:,}", f"{count / inspection.parameters:.1%}")
    console.print(parts)
    shared = f"per worker of {inspection.workers}"
    memory = _table(f"training, {shared}", *[f"ZeRO-{stage}" for stage in range(4)])
    for dtype, needed in inspection.memory.items():
        memory.add_row(dtype, *[_scaled(size, "B") for size in needed.values()])
    console.print(memory)
    weights = [f"{_scaled(inspection.parameters * size, 'B')} in {dtype}" for dtype, size in BYTES.items()]
    console.print(f"weights: {', '.join(weights)}")
    console.print(f"keys and values: {_scaled(inspection.cache_bytes, 'B')} per token in bfloat16")
    console.print(
        f"operations per token, rows of {inspection.sequence_length:,}: "
        f"{_scaled(inspection.training_flops, 'FLOP')} in training, "
        f"{_scaled(inspection.generation_flops, 'FLOP')} in generation"
    )


def _table(first: str, *others: str) -> Table:
    table = Table(first, box=None, pad_edge=False)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _scaled(value: float, unit: str) -> str:
    """Return a number to three digits, with the prefix that leaves one to three before the point."""
    step = min(len(PREFIXES) - 1, math.floor(math.log10(max(1.0, float(f"{value:.3g}")))) // 3)
    return f"{value / 1000**step:.3g} {PREFIXES[step]}{unit}"
