"""Small models of other families, with random weights made on the spot."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from tests.unit.model.small import VOCABULARY

LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3")  # those that can be upcycled

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}

OTHERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "gpt2": (
        GPT2Config,
        {"vocab_size": VOCABULARY, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 64}
        | {"bos_token_id": 1, "eos_token_id": 2},
    ),
    "llama": (LlamaConfig, SHAPE),
    "mistral": (MistralConfig, SHAPE | {"sliding_window": None}),
    "qwen2": (Qwen2Config, SHAPE),
    "qwen3": (Qwen3Config, SHAPE),
    "gemma": (GemmaConfig, SHAPE),
    "gemma2": (Gemma2Config, SHAPE | {"sliding_window": 8}),
    "gemma3": (Gemma3TextConfig, SHAPE | {"sliding_window": 8, "num_hidden_layers": 6}),
    "mixtral": (MixtralConfig, SHAPE | {"num_local_experts": 4, "num_experts_per_tok": 2}),
}


def other(family: str, **changes: Any) -> PreTrainedModel:
    """Make a decoder of another family whose every weight, norms and biases too, is drawn."""
    config_class, shape = OTHERS[family]
    torch.manual_seed(5)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config_class(**shape | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model
