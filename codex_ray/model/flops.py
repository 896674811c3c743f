"""Floating-point operations of training, for MFU."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from codex_ray.model.configuration import CodexRayConfig
from codex_ray.model.roles import optimizer_role

# The backward pass of a product does two products of the same size.
FORWARD_AND_BACKWARD = 3
MULTIPLY_ADD = 2


def flops_per_token(model_config: PreTrainedConfig, sequence_length: int) -> float:
    """Count the operations of one token's forward and backward pass.

    Six per parameter of every matrix product (the output matrix counts, looking up an embedding
    does not; of a mixture's experts, those that a token is sent to), plus attention over the causal
    half of the context, plus the reading, mixing and writing of residual streams. Recomputation and
    elementwise work are not counted.

    Args:
        model_config: configuration of any causal language model of Transformers.
        sequence_length: tokens per row.
    """
    text = model_config.get_text_config()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config)
    matrices = sum(
        parameter.numel() * _share_used(name, text)
        for name, parameter in model.named_parameters()
        if parameter.dim() >= 2
        and not name.endswith("bias")
        and optimizer_role(name, tuple(parameter.shape)) in ("matrix", "mixer")
    )
    products = matrices + text.vocab_size * text.hidden_size
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    context = (sequence_length + 1) / 2
    products += text.num_hidden_layers * 2 * text.num_attention_heads * head_size * context
    return float(FORWARD_AND_BACKWARD * MULTIPLY_ADD * (products + _stream_products(text)))


def _share_used(name: str, config: PreTrainedConfig) -> float:
    """Share of a parameter that one token meets: of a mixture's experts, those that it is sent to."""
    experts = getattr(config, "num_local_experts", None)
    return config.num_experts_per_tok / experts if experts and ".experts." in name else 1.0


def _stream_products(config: PreTrainedConfig) -> int:
    """Multiply-adds of reading, mixing and writing streams, per token."""
    if not isinstance(config, CodexRayConfig) or config.mixed_streams == 1:
        return 0
    streams = config.residual_streams
    mixing = 0 if config.residual_kind == "identity" else streams**2
    return 2 * config.num_hidden_layers * config.hidden_size * (2 * streams + mixing)
