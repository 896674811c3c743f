"""Configuration of the codex_ray decoder, in the Transformers 5 style.

This file, ``modeling.py`` and ``hyper_connections.py`` are copied into exported model folders and
import nothing else of this package, so that a folder loads where codex_ray is not installed.
"""

from __future__ import annotations

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

RESIDUAL_KINDS = ("mhc", "mhc_permutation", "identity", "hc", "plain")

# mhc_permutation weighs all N! permutations of the streams; more than 120 logits defeat its purpose.
MAX_PERMUTED_STREAMS = 5


@strict
class CodexRayConfig(PreTrainedConfig):
    """A decoder-only transformer whose residual connections are hyper-connections.

    Names follow Transformers where it has one. The rest:

    Attributes:
        query_key_norm: RMSNorm on queries and keys, per head, before the rotation.
        attention_bias: biases on queries, keys and values (models that were upcycled).
        attention_output_bias: a bias on the attention's output matrix.
        mlp_bias: biases in the feed-forward.
        residual_kind: one of ``RESIDUAL_KINDS``.
        residual_streams: parallel residual streams; 1 is the plain residual whatever the kind.
        sinkhorn_iterations: column-then-row normalisations (``mhc``).
        sinkhorn_eps: added to sums while normalising and to read gates, as released mHC models do.
        gate_init: initial gate of the coefficients' dynamic part.
        off_diagonal_init: initial mixing logit off the diagonal.
        residual_exit: how streams become one before the last norm, ``mean`` or ``learned``.
        base_width: hidden size for which the rates of training are meant, where they follow it.

    Raises:
        ValueError: (wrapped by ``huggingface_hub``) the shape is impossible.
    """

    model_type = "codex_ray"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 - Transformers' own convention
    base_model_tp_plan = {  # noqa: RUF012
        "layers.*.attention.q_proj": "colwise",
        "layers.*.attention.k_proj": "colwise",
        "layers.*.attention.v_proj": "colwise",
        "layers.*.attention.q_norm": "replicated_with_grad_allreduce",
        "layers.*.attention.k_norm": "replicated_with_grad_allreduce",
        "layers.*.attention.o_proj": "rowwise",
        "layers.*.mlp.gate_proj": "colwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
    }
    # Between stages travel all the streams, [B, S, N, D].
    base_model_pp_plan = {  # noqa: RUF012
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }

    vocab_size: int = 2048
    hidden_size: int = 192
    intermediate_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 6
    num_key_value_heads: int = 2
    head_dim: int = 32
    max_position_embeddings: int = 256
    rope_parameters: dict[str, Any] | None = None
    rms_norm_eps: float = 1e-6
    query_key_norm: bool = True
    attention_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    use_cache: bool = True
    residual_kind: str = "mhc"
    residual_streams: int = 4
    sinkhorn_iterations: int = 20
    sinkhorn_eps: float = 1e-6
    gate_init: float = 0.01
    off_diagonal_init: float = -4.0
    residual_exit: str = "mean"
    base_width: int | None = None
    pad_token_id: int | None = 3
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    @property
    def mixed_streams(self) -> int:
        """Streams the layers really carry: 1 when nothing is mixed."""
        return 1 if self.residual_kind == "plain" else self.residual_streams

    def validate_architecture(self) -> None:
        """Refuse shapes that cannot be built (called by ``@strict`` after every construction)."""
        positive = (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "max_position_embeddings",
            "residual_streams",
            "sinkhorn_iterations",
        )
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.head_dim < 2 or self.head_dim % 2:
            raise ValueError(f"head_dim must be even for the rotary embedding, not {self.head_dim}")
        if self.residual_kind not in RESIDUAL_KINDS:
            raise ValueError(
                f"residual_kind must be one of {', '.join(RESIDUAL_KINDS)}, not {self.residual_kind!r}"
            )
        if self.residual_exit not in ("mean", "learned"):
            raise ValueError(f"residual_exit must be mean or learned, not {self.residual_exit!r}")
        if self.residual_kind == "mhc_permutation" and self.residual_streams > MAX_PERMUTED_STREAMS:
            raise ValueError(
                f"mhc_permutation needs {math.factorial(self.residual_streams)} logits for "
                f"{self.residual_streams} streams; use at most {MAX_PERMUTED_STREAMS} streams, or mhc"
            )
