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


@dataclass(frozen=True)
class Inspection:
    """What ``inspect`` found.

    Attributes:
        name: the model's folder or Hub name.
        family: its model type.
        parts: parameters by part, in the order of the model.
        roles: parameters by what the optimizer makes of them.
        parameters: all of them, shared ones once; ``tensors``: how many tensors hold them.
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
    tensors: int
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
        tensors=len(list(model.parameters())),
        memory={
            dtype: {stage: sum(zero_shares(parameters, dtype, stage, workers)) for stage in range(4)}
            for dtype in BYTES
        },
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


def zero_shares(parameters: int, dtype: str, stage: int, workers: int) -> tuple[float, float, float, float]:
    """Bytes per worker of weights, gradients, fp32 masters and Adam's moments (arXiv 1910.02054, section 5).

    Stage 1 shards masters and moments, 2 gradients too, 3 weights too. DeepSpeed keeps masters beside fp32
    weights as well, except at stage 0.
    """
    weights = gradients = float(parameters * BYTES[dtype])
    masters = float(parameters * BYTES["float32"]) if stage or dtype != "float32" else 0.0
    shares = [weights, gradients, masters, 2.0 * parameters * BYTES["float32"]]
    sharded = {0: (), 1: (2, 3), 2: (1, 2, 3), 3: (0, 1, 2, 3)}[stage]
    first, second, third, fourth = (
        share / workers if index in sharded else share for index, share in enumerate(shares)
    )
    return first, second, third, fourth


def _print(inspection: Inspection) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{inspection.name}: {inspection.family}, {inspection.parameters:,} parameters")
    parts = table("part", "parameters", "share")
    for name, count in inspection.parts.items():
        parts.add_row(name, f"{count:,}", f"{count / inspection.parameters:.1%}")
    console.print(parts)
    shared = f"per worker of {inspection.workers}"
    memory = table(f"training, {shared}", *[f"ZeRO-{stage}" for stage in range(4)])
    for dtype, needed in inspection.memory.items():
        memory.add_row(dtype, *[scaled(size, "B") for size in needed.values()])
    console.print(memory)
    weights = [f"{scaled(inspection.parameters * size, 'B')} in {dtype}" for dtype, size in BYTES.items()]
    console.print(f"weights: {', '.join(weights)}")
    console.print(f"keys and values: {scaled(inspection.cache_bytes, 'B')} per token in bfloat16")
    console.print(
        f"operations per token, rows of {inspection.sequence_length:,}: "
        f"{scaled(inspection.training_flops, 'FLOP')} in training, "
        f"{scaled(inspection.generation_flops, 'FLOP')} in generation"
    )


def table(first: str, *others: str) -> Table:
    """Return a table without lines: a column of names, others of numbers."""
    made = Table(first, box=None, pad_edge=False)
    for name in others:
        made.add_column(name, justify="right")
    return made


def scaled(value: float, unit: str) -> str:
    """Return a number to three digits, with the prefix that leaves one to three before the point."""
    step = min(len(PREFIXES) - 1, math.floor(math.log10(max(1.0, float(f"{value:.3g}")))) // 3)
    return f"{value / 1000**step:.3g} {PREFIXES[step]}{unit}"
