"""Manifold-constrained hyper-connections (mHC, arXiv 2512.24880): N residual streams instead of one.

Around each sublayer F, with streams X and per-token coefficients computed from all of X::

    u = sum_i pre_i X_i        y = F(u)        X'_j = sum_i H_ji X_i + post_j y

H has unit row sums (forward gain) and column sums (backward gain), so that products of many of
them neither grow nor vanish.

Shape legend: B batch, S sequence, T tokens (B*S), N streams, D hidden size, K logits per token.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .mixing import ReadStreams, Rule, WriteStreams, permutation_matrices, wide

# Standard deviation of the dynamic projection at the start: it must not be zero, or streams that
# start equal stay equal for ever (their gradients are the same).
PROJECTION_STD = 0.02


def expand_streams(embedded_BSD: Tensor, streams: int) -> Tensor:
    """Enter: every stream starts as a copy of the embedding."""
    return embedded_BSD.unsqueeze(2).expand(-1, -1, streams, -1).contiguous()


def write_streams(streams_BSND: Tensor, output_BSD: Tensor, writing: Tensor) -> Tensor:
    """Mix the streams and add a sublayer's output: H X + post y.

    Args:
        streams_BSND: the streams that :class:`Mixer` returned with ``writing``.
        output_BSD: the sublayer's output, y.
        writing: the writing matrix, [T, N, N+1] or [T, N, 1], fp32.
    """
    with torch.autocast(streams_BSND.device.type, enabled=False):
        result: Tensor = WriteStreams.apply(streams_BSND, output_BSD, writing)  # type: ignore[no-untyped-call]
    return result


def mean_streams(streams_BSND: Tensor) -> Tensor:
    """Exit: the mean of the streams (equal to their sum under the norm that follows)."""
    return streams_BSND.float().mean(2).to(streams_BSND.dtype)


class Mixer(nn.Module):
    """The hyper-connection of one sublayer: its coefficients and its read.

    Large constants of the bias live in an fp32 buffer and a small difference is learned, because
    engines that train in bf16 cast every parameter, but no buffer.

    Args:
        rule: kind of constraint, number of streams, iterations and epsilons.
        hidden_size: D.
        index: number of this sublayer in the model (``hc`` first reads stream index mod N).
        gate_init: initial gate of the dynamic part.
        off_diagonal_init: initial mixing logit off the diagonal.
    """

    bias_constant: Tensor

    def __init__(
        self, rule: Rule, *, hidden_size: int, index: int, gate_init: float, off_diagonal_init: float
    ) -> None:
        super().__init__()
        self.rule, self.index = rule, index
        self.gate_init, self.off_diagonal_init = gate_init, off_diagonal_init
        n = rule.streams
        mixing = {"identity": 0, "mhc_permutation": math.factorial(n)}.get(rule.kind, n * n)
        self.groups = [n, n, mixing]
        logits = sum(self.groups)
        rows, columns = (n + 2, hidden_size) if rule.kind == "hc" else (logits, n * hidden_size)
        self.phi = nn.Parameter(torch.empty(rows, columns))
        self.bias = nn.Parameter(torch.empty(logits))
        self.gate = nn.Parameter(torch.empty(3))
        self.register_buffer("bias_constant", self.initial_bias())

    def initial_bias(self) -> Tensor:
        """The constant part of the bias, [K]: at the start the model equals a plain one.

        Read gates sum to one, write gates are one, and mixing is near the identity.
        """
        n = self.rule.streams
        if self.rule.kind == "hc":
            one_hot = functional.one_hot(torch.tensor(self.index % n), n).float()
            return torch.cat([one_hot, torch.ones(n), torch.eye(n).flatten()])
        pre, post = torch.full((n,), -math.log(n - 1)), torch.zeros(n)
        if self.rule.kind == "identity":
            mixing = torch.empty(0)
        elif self.rule.kind == "mhc":
            mixing = (self.off_diagonal_init * (1 - torch.eye(n))).flatten()
        else:
            # Half the number of streams that a permutation moves: a transposition then weighs
            # what one entry off the diagonal weighs in `mhc`.
            moved = n - permutation_matrices(n).view(-1, n, n).diagonal(dim1=1, dim2=2).sum(1)
            mixing = self.off_diagonal_init * moved / 2
        return torch.cat([pre, post, mixing])

    def forward(self, streams_BSND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sublayer's input u, [B, S, D], the writing matrix, fp32, and the streams.

        Write to the streams that are returned: their gradients then meet in one place.
        """
        with torch.autocast(streams_BSND.device.type, enabled=False):
            if self.rule.kind == "hc":
                return self._unconstrained(streams_BSND)
            read: tuple[Tensor, Tensor, Tensor] = ReadStreams.apply(  # type: ignore[no-untyped-call]
                streams_BSND, self.phi, self.bias_constant, self.bias, self.gate, self.rule
            )
            return read

    def _unconstrained(self, streams_BSND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hyper-connections without the manifold (arXiv 2409.19606, dynamic form), for comparison."""
        n = self.rule.streams
        x = wide(streams_BSND.flatten(0, 1))
        gate = wide(self.gate)
        normed = x * (x.square().mean(-1, keepdim=True) + self.rule.norm_eps).rsqrt()
        dynamic = torch.tanh(normed @ wide(self.phi).t())
        pre, post, mixing = (wide(self.bias_constant) + wide(self.bias)).split(self.groups)
        # Stream i projects how it is read, how it is written, and how it is passed on to every
        # stream: row i of that paper's matrix, which is column i of ours.
        pre_TN = gate[0] * dynamic[..., 0] + pre
        post_TN = gate[1] * dynamic[..., 1] + post
        mixing_TNN = gate[2] * dynamic[..., 2:].transpose(1, 2) + mixing.view(n, n)
        writing = torch.cat([mixing_TNN, post_TN.unsqueeze(2)], dim=2)
        return _weighted(streams_BSND, pre_TN), writing, streams_BSND


class ExitMixer(nn.Module):
    """Learned exit (as in DeepSeek-V4): a gate per stream, computed from all streams."""

    bias_constant: Tensor

    def __init__(self, rule: Rule, *, hidden_size: int, gate_init: float) -> None:
        super().__init__()
        self.rule, self.gate_init = rule, gate_init
        self.phi = nn.Parameter(torch.empty(rule.streams, rule.streams * hidden_size))
        self.bias = nn.Parameter(torch.empty(rule.streams))
        self.gate = nn.Parameter(torch.empty(1))
        self.register_buffer("bias_constant", self.initial_bias())

    def initial_bias(self) -> Tensor:
        """The constant part of the bias: gates sum to one at the start, so the exit is the mean."""
        return torch.full((self.rule.streams,), -math.log(self.rule.streams - 1))

    def forward(self, streams_BSND: Tensor) -> Tensor:
        """Return the weighted sum of the streams, [B, S, D]."""
        with torch.autocast(streams_BSND.device.type, enabled=False):
            flat = wide(streams_BSND.flatten(0, 1).flatten(1))
            inverse_rms = (flat.square().mean(-1, keepdim=True) + self.rule.norm_eps).rsqrt()
            logits = wide(self.gate) * (flat @ wide(self.phi).t()) * inverse_rms
            gates = (logits + wide(self.bias_constant) + wide(self.bias)).sigmoid() + self.rule.eps
            return _weighted(streams_BSND, gates)


def _weighted(streams_BSND: Tensor, weights_TN: Tensor) -> Tensor:
    """Sum of streams with weights per token, in fp32, rounded once."""
    weighted = torch.bmm(weights_TN.unsqueeze(1), wide(streams_BSND.flatten(0, 1)))
    return weighted.to(streams_BSND.dtype).view_as(streams_BSND[:, :, 0])
