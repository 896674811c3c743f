"""Building our decoder from settings, with fresh weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from codex_ray.config.model import Model, Residual
from codex_ray.errors import ConfigError
from codex_ray.model.configuration import CodexRayConfig
from codex_ray.model.load import reason
from codex_ray.model.modeling import CodexRayForCausalLM
from codex_ray.model.parametrisation import scale_initial, width_multiplier


def build_model(
    settings: Model,
    *,
    vocabulary_size: int,
    sequence_length: int,
    seed: int,
    special_ids: Mapping[str, int],
) -> CodexRayForCausalLM:
    """Build the decoder with fresh weights, in fp32 on the CPU.

    The same arguments give the same weights; the global random state is left as it was.

    Args:
        settings: the decoder's shape.
        vocabulary_size: entries of the tokenizer.
        sequence_length: longest sequence, unless the settings say otherwise.
        seed: seed of the weights.
        special_ids: ids of ``bos``, ``eos`` and ``pad``.

    Raises:
        ConfigError: the shape is impossible.
    """
    config = model_config(
        settings,
        vocabulary_size=vocabulary_size,
        sequence_length=sequence_length,
        special_ids=special_ids,
    )
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        model: CodexRayForCausalLM = CodexRayForCausalLM(config).float()
        scale_initial(model, width_multiplier(config))
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    return model


def model_config(
    settings: Model, *, vocabulary_size: int, sequence_length: int, special_ids: Mapping[str, int]
) -> CodexRayConfig:
    """Translate settings into a Transformers configuration.

    Raises:
        ConfigError: the shape is impossible.
    """
    rope = {"rope_type": "default", "rope_theta": settings.rope_theta} | settings.rope_scaling
    if rope["rope_type"] not in (*ROPE_INIT_FUNCTIONS, "default"):
        kinds = ", ".join(("default", *ROPE_INIT_FUNCTIONS))
        raise ConfigError(f"model.rope_scaling.rope_type must be one of {kinds}, not {rope['rope_type']!r}")
    try:
        with _rope_complaints() as complaints:
            config = CodexRayConfig(
                vocab_size=vocabulary_size,
                hidden_size=settings.hidden_size,
                intermediate_size=settings.intermediate_size,
                num_hidden_layers=settings.layers,
                num_attention_heads=settings.heads,
                num_key_value_heads=settings.key_value_heads,
                head_dim=settings.head_size,
                max_position_embeddings=settings.max_positions or sequence_length,
                rope_parameters=rope,
                rms_norm_eps=settings.norm_eps,
                query_key_norm=settings.query_key_norm,
                initializer_range=settings.init_std,
                tie_word_embeddings=settings.tie_embeddings,
                base_width=settings.base_width,
                **residual_fields(settings.residual),
                bos_token_id=special_ids["bos"],
                eos_token_id=special_ids["eos"],
                pad_token_id=special_ids["pad"],
            )
    except (StrictDataclassError, KeyError) as error:
        raise ConfigError(f"this model cannot be built: {reason(error)}") from error
    if complaints:
        raise ConfigError(f"this model cannot be built: {complaints[0]}")
    return config


def residual_fields(residual: Residual) -> dict[str, Any]:
    """Return the fields of a configuration that say how residual connections are."""
    return {
        "residual_kind": residual.kind,
        "residual_streams": residual.streams,
        "sinkhorn_iterations": residual.sinkhorn_iterations,
        "gate_init": residual.gate_init,
        "off_diagonal_init": residual.off_diagonal_init,
        "residual_exit": residual.exit,
    }


@contextmanager
def _rope_complaints() -> Iterator[list[str]]:
    """Collect what Transformers only warns of in the settings of rotary positions."""
    complaints: list[str] = []
    logger, handler = logging.getLogger(ROPE_INIT_FUNCTIONS["linear"].__module__), logging.Handler()
    handler.emit = lambda record: complaints.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield complaints
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
