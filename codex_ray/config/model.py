"""Settings of the decoder and of its residual connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from codex_ray.config.fields import setting

RESIDUAL_KINDS = ("mhc", "mhc_permutation", "identity", "hc", "plain")


@dataclass(frozen=True)
class Residual:
    """Hyper-connections (arXiv 2512.24880): how streams are read, mixed and written."""

    kind: str = setting("mhc", choices=RESIDUAL_KINDS, help="mhc is Sinkhorn; plain has one stream")
    streams: int = setting(4, minimum=1, help="parallel residual streams; 1 bypasses the mixers")
    sinkhorn_iterations: int = setting(20, minimum=1, help="Sinkhorn normalisations (mhc)")
    gate_init: float = setting(0.01, help="initial gate of the dynamic part (alpha)")
    off_diagonal_init: float = setting(
        -4.0, help="initial mixing logit off the diagonal; 0 starts uniform, -4 near the identity"
    )
    exit: str = setting("mean", choices=("mean", "learned"), help="how streams become one at the end")


@dataclass(frozen=True)
class Model:
    """The decoder's shape. The vocabulary is the corpus tokenizer's."""

    hidden_size: int = setting(192, minimum=8, help="width of a stream")
    intermediate_size: int = setting(512, minimum=8, help="width inside the SwiGLU feed-forward")
    layers: int = setting(6, minimum=1, help="decoder layers (attention and feed-forward each)")
    heads: int = setting(6, minimum=1, help="query heads")
    key_value_heads: int = setting(2, minimum=1, help="key/value heads (GQA)")
    head_size: int = setting(32, minimum=2, help="width of a head; even")
    max_positions: int | None = setting(
        None, minimum=2, help="longest sequence; unset is the corpus's sequence length"
    )
    rope_theta: float = setting(10000.0, minimum=1.0, help="base of the rotary embedding")
    rope_scaling: dict[str, Any] = setting(
        {}, help="longer contexts: Transformers' rope_parameters, such as {rope_type: linear, factor: 2.0}"
    )
    norm_eps: float = setting(1e-6, minimum=0.0, help="epsilon of RMSNorm")
    query_key_norm: bool = setting(True, help="RMSNorm on queries and keys, per head")
    tie_embeddings: bool = setting(True, help="one matrix for the embedding and the output")
    init_std: float = setting(0.02, minimum=0.0, help="standard deviation of initial weights")
    base_width: int | None = setting(
        None,
        minimum=8,
        help="hidden_size for which rates and init_std are meant: at others they follow it (µP); unset, they "
        "stay as they are",
    )
    residual: Residual = setting(Residual, help="residual connections")
