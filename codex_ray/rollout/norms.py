"""RMSNorm of few tokens, in as few operations as it takes."""

from __future__ import annotations

import torch
from torch import Tensor


def normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last dimension, in fp32, rounded once; the weight is fp32."""
    wide = x.float()
    norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    normed: Tensor = (wide * inverse).mul_(weight).to(x.dtype)
    return normed
