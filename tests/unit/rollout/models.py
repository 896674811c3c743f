"""Small models with random weights, and a tokenizer for them, that the sampling tests share."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from codex_ray.config.corpus import Tokenizer as TokenizerSettings
from codex_ray.config.model import Model, Residual
from codex_ray.model import build_model
from codex_ray.tokenizer import Tokenizer, train_tokenizer
from tests.unit.model.families import OTHERS

POSITIONS = 64


def train_small_tokenizer(folder: Path) -> Tokenizer:
    """400 pieces of Python."""
    texts = [Path(torch.__file__).read_text(), Path(random.__file__).read_text()]
    return train_tokenizer(texts, TokenizerSettings(vocabulary_size=400), folder, seed=1)


def llama(vocabulary: int) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=POSITIONS,
            initializer_range=0.3,
        )
    )


def gpt2(vocabulary: int) -> Any:
    """A model with learned positions, which go wrong where a row does not count its own."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=POSITIONS,
            initializer_range=0.3,
        )
    )


def gemma3(vocabulary: int) -> Any:
    """A model whose layers look back only eight tokens, but for every sixth."""
    torch.manual_seed(0)
    config_class, shape = OTHERS["gemma3"]
    config = config_class(**shape | {"vocab_size": vocabulary, "initializer_range": 0.3})
    return AutoModelForCausalLM.from_config(config)


def mhc(vocabulary: int) -> Any:
    return _decoder(vocabulary, Residual(kind="mhc", gate_init=0.5, off_diagonal_init=0.0))


def permutation(vocabulary: int) -> Any:
    return _decoder(vocabulary, Residual(kind="mhc_permutation", gate_init=0.5, off_diagonal_init=0.0))


def plain_decoder(vocabulary: int) -> Any:
    """Ours without hyper-connections."""
    return _decoder(vocabulary, Residual(kind="plain"))


def _decoder(vocabulary: int, residual: Residual) -> Any:
    shape = Model(
        hidden_size=32,
        intermediate_size=48,
        layers=2,
        heads=4,
        key_value_heads=2,
        head_size=8,
        init_std=0.3,
        residual=residual,
    )
    special_ids = {"bos": 1, "eos": 2, "pad": 3}
    return build_model(
        shape, vocabulary_size=vocabulary, sequence_length=POSITIONS, seed=0, special_ids=special_ids
    )
