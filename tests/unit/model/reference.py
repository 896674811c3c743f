"""Hyper-connections written the slow and obvious way: plain autograd, one line per equation."""

from __future__ import annotations

import torch
from torch import Tensor

from codex_ray.model.hyper_connections import Mixer
from codex_ray.model.mixing import permutation_matrices


def sinkhorn(logits: Tensor, iterations: int, eps: float) -> Tensor:
    """Doubly stochastic matrices [..., N, N] (destination, source), columns normalised first."""
    matrix = logits.softmax(-2) + eps
    matrix = matrix / (matrix.sum(-1, keepdim=True) + eps)
    for _ in range(iterations - 1):
        matrix = matrix / (matrix.sum(-2, keepdim=True) + eps)
        matrix = matrix / (matrix.sum(-1, keepdim=True) + eps)
    return matrix


def coefficients(mixer: Mixer, streams: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Read gates, write gates and mixing matrices of ``streams`` [B, S, N, D]."""
    rule, n = mixer.rule, mixer.rule.streams
    flat = streams.flatten(2).to(dtype)
    rms = (flat.square().mean(-1, keepdim=True) + rule.norm_eps).sqrt()
    pre, post, mixing = ((flat @ mixer.phi.to(dtype).t()) / rms).split(mixer.groups, -1)
    bias = (mixer.bias_constant.to(dtype) + mixer.bias.to(dtype)).split(mixer.groups)
    gate = mixer.gate.to(dtype)
    pre = (gate[0] * pre + bias[0]).sigmoid() + rule.eps
    post = 2 * (gate[1] * post + bias[1]).sigmoid()
    mixing = gate[2] * mixing + bias[2]
    if rule.kind == "mhc":
        matrix = sinkhorn(mixing.unflatten(-1, (n, n)), rule.iterations, rule.eps)
    elif rule.kind == "mhc_permutation":
        matrix = (mixing.softmax(-1) @ permutation_matrices(n).to(dtype)).unflatten(-1, (n, n))
    else:
        matrix = torch.eye(n, dtype=dtype).expand(*pre.shape, n)
    return pre, post, matrix


def connect(mixer: Mixer, streams: Tensor, sublayer: torch.nn.Module, dtype: torch.dtype) -> Tensor:
    """One sublayer under a hyper-connection: X' = H X + post F(pre X)."""
    pre, post, matrix = coefficients(mixer, streams, dtype)
    wide = streams.to(dtype)
    read = (pre.unsqueeze(-1) * wide).sum(2).to(streams.dtype)
    written = post.unsqueeze(-1) * sublayer(read).to(dtype).unsqueeze(2)
    return (torch.einsum("bsji,bsid->bsjd", matrix, wide) + written).to(streams.dtype)
