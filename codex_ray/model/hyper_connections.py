"""Manifold-constrained hyper-connections (mHC, arXiv 2512.24880): N residual streams instead of one.

Around each sublayer F, with streams X and per-token coefficients computed from all of X::

    u = sum_i pre_i X_i        y = F(u)        X'_j = sum_i H_ji X_i + post_j y

H is kept doubly stochastic (rows: forward gain, columns: backward gain), so that products of many
of them neither grow nor vanish. Coefficients and products are fp32 whatever the model's precision.

Shape legend: B batch, S sequence, T tokens (B*S), N streams, D hidden size, K logits per token,
P permutations of the streams.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Standard deviation of the dynamic projection at the start: it must not be zero, or streams that
# start equal stay equal for ever (their gradients are the same).
PROJECTION_STD = 0.02


class Coefficients(NamedTuple):
    """How one sublayer writes: post_BSN and the mixing matrix mix_BSNN (None is the identity)."""

    post_BSN: Tensor
    mix_BSNN: Tensor | None


class Sinkhorn(torch.autograd.Function):
    """Doubly stochastic matrices from logits; keeps only the logits and recomputes the rest.

    Logits are [N, N, T], destination stream first; columns are normalised before rows.
    """

    @staticmethod
    def forward(ctx: Any, logits_NNT: Tensor, iterations: int, eps: float) -> Tensor:
        ctx.save_for_backward(logits_NNT)
        ctx.iterations, ctx.eps = iterations, eps
        return _sinkhorn_steps(logits_NNT, iterations, eps)[-1][1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (logits_NNT,) = ctx.saved_tensors
        gradient_NNT = gradients[0]
        steps = _sinkhorn_steps(logits_NNT, ctx.iterations, ctx.eps)
        for dim, result_NNT, sums in reversed(steps[1:]):
            inner = (gradient_NNT * result_NNT).sum(dim, keepdim=True)
            gradient_NNT = (gradient_NNT - inner) / sums
        dim, softmax_NNT, _ = steps[0]
        inner = (gradient_NNT * softmax_NNT).sum(dim, keepdim=True)
        return softmax_NNT * (gradient_NNT - inner), None, None


def _sinkhorn_steps(logits_NNT: Tensor, iterations: int, eps: float) -> list[tuple[int, Tensor, Tensor]]:
    """Return (dimension, result, divisor) of each normalisation; the first is a softmax."""
    softmax_NNT = logits_NNT.softmax(0)
    steps = [(0, softmax_NNT, softmax_NNT)]
    matrix_NNT = softmax_NNT + eps
    for dim in [1, *[0, 1] * (iterations - 1)]:
        sums = matrix_NNT.sum(dim, keepdim=True) + eps
        matrix_NNT = matrix_NNT / sums
        steps.append((dim, matrix_NNT, sums))
    return steps


def sinkhorn(logits_NNT: Tensor, iterations: int, eps: float) -> Tensor:
    """Project logits onto (nearly) doubly stochastic matrices, in fp32 (mHC eq. 9).

    Rows sum to one up to ``eps``; columns as far as the iterations have converged.
    """
    result: Tensor = Sinkhorn.apply(logits_NNT, iterations, eps)
    return result


def permutation_matrices(streams: int) -> Tensor:
    """All permutation matrices, [P, N*N], destination stream first; the identity is the first."""
    identity = torch.eye(streams)
    return torch.stack([identity[list(order)] for order in itertools.permutations(range(streams))]).flatten(1)


def expand_streams(x_BSD: Tensor, streams: int) -> Tensor:
    """Enter: every stream starts as a copy of the embedding."""
    return x_BSD.unsqueeze(2).expand(-1, -1, streams, -1).contiguous()


def write(streams_BSND: Tensor, y_BSD: Tensor, coefficients: Coefficients) -> Tensor:
    """Mix the streams and add the sublayer's output: H X + post y, in fp32, cast once."""
    added = coefficients.post_BSN.unsqueeze(-1) * y_BSD.float().unsqueeze(-2)
    mixed = streams_BSND.float()
    if coefficients.mix_BSNN is not None:
        mixed = coefficients.mix_BSNN @ mixed
    return (mixed + added).to(streams_BSND.dtype)


def read(streams_BSND: Tensor, pre_BSN: Tensor) -> Tensor:
    """Combine the streams into one input: sum_i pre_i X_i, in fp32, cast once."""
    return (pre_BSN.unsqueeze(-2) @ streams_BSND.float()).squeeze(-2).to(streams_BSND.dtype)


class Mixer(nn.Module):
    """The hyper-connection of one sublayer: its coefficients and its read.

    Large constants of the bias live in an fp32 buffer and a small difference is learned, because
    engines that train in bf16 cast every parameter, but no buffer.

    Args:
        kind: ``mhc``, ``mhc_permutation``, ``identity`` or ``hc``.
        streams: N, at least 2.
        hidden_size: D.
        index: number of this sublayer in the model (``hc`` reads stream index mod N at the start).
        sinkhorn_iterations, sinkhorn_eps, gate_init, off_diagonal_init, norm_eps: see the configuration.
    """

    bias_constant: Tensor
    permutations: Tensor

    def __init__(
        self,
        *,
        kind: str,
        streams: int,
        hidden_size: int,
        index: int,
        sinkhorn_iterations: int,
        sinkhorn_eps: float,
        gate_init: float,
        off_diagonal_init: float,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.kind, self.streams, self.index = kind, streams, index
        self.sinkhorn_iterations, self.sinkhorn_eps = sinkhorn_iterations, sinkhorn_eps
        self.gate_init, self.off_diagonal_init, self.norm_eps = gate_init, off_diagonal_init, norm_eps
        mixing = {
            "mhc": streams**2,
            "mhc_permutation": math.factorial(streams),
            "identity": 0,
            "hc": streams**2,
        }
        self.splits = [streams, streams, mixing[kind]]
        logits = sum(self.splits)
        rows, columns = (streams + 2, hidden_size) if kind == "hc" else (logits, streams * hidden_size)
        self.phi = nn.Parameter(torch.empty(rows, columns))
        self.bias = nn.Parameter(torch.empty(logits))
        self.gate = nn.Parameter(torch.empty(3))
        self.register_buffer("bias_constant", torch.empty(logits, dtype=torch.float32))

    def initial_bias(self) -> Tensor:
        """The constant part of the bias, [K]: at the start the model equals a plain one.

        Read gates sum to one, write gates are one, and mixing is near the identity.
        """
        n = self.streams
        if self.kind == "hc":
            one_hot = F.one_hot(torch.tensor(self.index % n), n).float()
            return torch.cat([one_hot, torch.ones(n), torch.eye(n).flatten()])
        pre, post = torch.full((n,), -math.log(n - 1)), torch.zeros(n)
        if self.kind == "identity":
            mixing = torch.empty(0)
        elif self.kind == "mhc":
            mixing = (self.off_diagonal_init * (1 - torch.eye(n))).flatten()
        else:
            # Half the off-diagonal entries that a permutation uses: a transposition then weighs
            # what one off-diagonal entry weighs in `mhc`.
            moved = n - permutation_matrices(n).view(-1, n, n).diagonal(dim1=1, dim2=2).sum(1)
            mixing = self.off_diagonal_init * moved / 2
        return torch.cat([pre, post, mixing])

    def forward(self, streams_BSND: Tensor) -> tuple[Tensor, Coefficients]:
        """Return the sublayer's input and how to write its output."""
        pre_BSN, post_BSN, mix_BSNN = self.coefficients(streams_BSND)
        return read(streams_BSND, pre_BSN), Coefficients(post_BSN, mix_BSNN)

    def coefficients(self, streams_BSND: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return pre_BSN in (0, 1), post_BSN in (0, 2) and mix_BSNN, all fp32."""
        with torch.autocast(streams_BSND.device.type, enabled=False):
            bias_K = self.bias_constant.float() + self.bias.float()
            gates = self.gate.float().unbind()
            if self.kind == "hc":
                return self._unconstrained(streams_BSND, bias_K, gates)
            flat = streams_BSND.flatten(2).float()
            inverse_rms = (flat.square().mean(-1, keepdim=True) + self.norm_eps).rsqrt()
            dynamic = ((flat @ self.phi.float().t()) * inverse_rms).split(self.splits, -1)
            pre, post, mixing = (
                gate * part + bias
                for gate, part, bias in zip(gates, dynamic, bias_K.split(self.splits), strict=True)
            )
            return pre.sigmoid() + self.sinkhorn_eps, 2 * post.sigmoid(), self._mix(mixing)

    def _mix(self, mixing_BSK: Tensor) -> Tensor | None:
        batch, length, _ = mixing_BSK.shape
        n = self.streams
        if self.kind == "identity":
            return None
        if self.kind == "mhc":
            logits_NNT = mixing_BSK.reshape(-1, n, n).permute(1, 2, 0)
            matrix_NNT = sinkhorn(logits_NNT, self.sinkhorn_iterations, self.sinkhorn_eps)
            return matrix_NNT.permute(2, 0, 1).reshape(batch, length, n, n)
        matrices_PK = permutation_matrices(n).to(mixing_BSK.device)
        return (mixing_BSK.softmax(-1) @ matrices_PK).view(batch, length, n, n)

    def _unconstrained(
        self, streams_BSND: Tensor, bias_K: Tensor, gates: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hyper-connections without the manifold (arXiv 2409.19606, dynamic form), for comparison."""
        n = self.streams
        x = streams_BSND.float()
        normed = x * (x.square().mean(-1, keepdim=True) + self.norm_eps).rsqrt()
        dynamic_BSNK = torch.tanh(normed @ self.phi.float().t())
        pre, post, mixing = bias_K.split(self.splits)
        # Stream i projects how it is read, written, and passed on to every stream j: row i of the
        # paper's matrix, which is column i of ours.
        mix_BSNN = gates[2] * dynamic_BSNK[..., 2:].transpose(-1, -2) + mixing.view(n, n)
        return gates[0] * dynamic_BSNK[..., 0] + pre, gates[1] * dynamic_BSNK[..., 1] + post, mix_BSNN


class ExitMixer(nn.Module):
    """Learned exit (as in DeepSeek-V4): sigmoid gates per stream computed from all streams."""

    bias_constant: Tensor

    def __init__(
        self, *, streams: int, hidden_size: int, gate_init: float, norm_eps: float, eps: float
    ) -> None:
        super().__init__()
        self.streams, self.gate_init, self.norm_eps, self.eps = streams, gate_init, norm_eps, eps
        self.phi = nn.Parameter(torch.empty(streams, streams * hidden_size))
        self.bias = nn.Parameter(torch.empty(streams))
        self.gate = nn.Parameter(torch.empty(1))
        self.register_buffer("bias_constant", torch.empty(streams, dtype=torch.float32))

    def initial_bias(self) -> Tensor:
        """The constant part of the bias: gates sum to one at the start, so the exit is the mean."""
        return torch.full((self.streams,), -math.log(self.streams - 1))

    def forward(self, streams_BSND: Tensor) -> Tensor:
        """Return the weighted sum of the streams."""
        with torch.autocast(streams_BSND.device.type, enabled=False):
            flat = streams_BSND.flatten(2).float()
            inverse_rms = (flat.square().mean(-1, keepdim=True) + self.norm_eps).rsqrt()
            logits = self.gate.float() * (flat @ self.phi.float().t()) * inverse_rms
            gates = (logits + self.bias_constant.float() + self.bias.float()).sigmoid() + self.eps
            return read(streams_BSND, gates)


def mean_streams(streams_BSND: Tensor) -> Tensor:
    """Exit: the mean of the streams (equal to their sum under the norm that follows)."""
    return streams_BSND.float().mean(2).to(streams_BSND.dtype)
