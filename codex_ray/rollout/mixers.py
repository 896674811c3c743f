"""Hyper-connections of a decoding step: the mixers of ``model/hyper_connections.py`` for few tokens.

For the tokens of one step what counts is how many operations there are, not how often the streams pass
through memory. Coefficients and products are fp32, rounded when stored, as they are in training.

Shape legend: R rows, N streams, D hidden size, K logits per row.
"""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from torch import Tensor

from codex_ray.model.hyper_connections import Mixer
from codex_ray.model.mixing import Rule, permutation_matrices
from codex_ray.rollout import native
from codex_ray.rollout.norms import normed

SETTLED = 2e-7
"""Sinkhorn iterations end early where they change no sum by more; an fp32 number next to 1 is 1.2e-7 away."""

CHECKED_EVERY = 4


class PackedMixer:
    """One sublayer's connection, of the kinds ``mhc``, ``mhc_permutation`` and ``identity``.

    Args:
        mixer: of the model; ``norm``: weight of the sublayer's norm, [D], fp32, and ``eps``: its epsilon.
        dtype: of the streams.
    """

    def __init__(self, mixer: Mixer, norm: Tensor, eps: float, dtype: torch.dtype) -> None:
        self._rule = rule = mixer.rule
        self._norm_D, self._norm_eps = norm, eps
        self._phi_KF = mixer.phi.detach().float()
        self._bias_K1 = (mixer.bias_constant.float() + mixer.bias.detach().float())[:, None]
        gates = mixer.gate.detach().float().unbind()
        rows = [part.expand(size) for part, size in zip(gates, mixer.groups, strict=True)]
        self._gate_K1 = torch.cat(rows)[:, None]
        self._eps = torch.tensor(rule.norm_eps)
        permuted = rule.kind == "mhc_permutation"
        self._permutations = permutation_matrices(rule.streams) if permuted else torch.empty(0)
        self._kernels = native.kernels(dtype)
        self._compiled = native.Mixing(
            streams=rule.streams,
            size=len(norm),
            logits=len(self._gate_K1),
            permutations=len(self._permutations),
            iterations=rule.iterations if rule.kind == "mhc" else 0,
            eps=rule.eps,
            norm_eps=rule.norm_eps,
            phi=self._phi_KF.data_ptr(),
            bias=self._bias_K1.data_ptr(),
            gate=self._gate_K1.data_ptr(),
            matrices=self._permutations.data_ptr() if permuted else None,
        )
        self.address = ctypes.addressof(self._compiled)

    def read(self, streams_RND: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sublayer's normalised input, [R, D], and the writing matrix, [R, N, N+1], fp32."""
        if self._kernels is not None:
            return self._kernels.read(streams_RND, self._norm_D, self._norm_eps, self._compiled)
        n, rule = self._rule.streams, self._rule
        wide_RND = streams_RND.float()
        flat_RF = wide_RND.flatten(1)
        norm_R = torch.linalg.vector_norm(flat_RF, dim=1)
        inverse_R = torch.addcmul(self._eps, norm_R, norm_R, value=1 / flat_RF.shape[1]).rsqrt_()
        raw_KR = (self._phi_KF @ flat_RF.t()).mul_(inverse_R)
        logits_KR = torch.addcmul(self._bias_K1, raw_KR, self._gate_K1)
        # Products of strided gates take ten times as long.
        gates_RK = logits_KR[: 2 * n].t().contiguous().sigmoid_()
        read_RD = torch.bmm((gates_RK[:, :n] + rule.eps)[:, None], wide_RND)[:, 0]
        writing_RNM = wide_RND.new_empty(len(wide_RND), n, n + 1)
        torch.mul(gates_RK[:, n:], 2, out=writing_RNM[:, :, n])
        writing_RNM[:, :, :n] = self._mixing(logits_KR[2 * n :]).view(n, n, -1).permute(2, 0, 1)
        return normed(read_RD.to(streams_RND.dtype), self._norm_D, self._norm_eps), writing_RNM

    def write(self, streams_RND: Tensor, output_RD: Tensor, writing_RNM: Tensor) -> Tensor:
        """Mix the streams and add a sublayer's output."""
        if self._kernels is not None:
            return self._kernels.write(streams_RND, output_RD, writing_RNM)
        joined_RMD = torch.cat([streams_RND, output_RD[:, None]], 1).float()
        return torch.bmm(writing_RNM, joined_RMD).to(streams_RND.dtype)

    def _mixing(self, logits_KR: Tensor) -> Tensor:
        """Matrices with unit row and column sums, [N*N, R]."""
        if self._rule.kind == "identity":
            return torch.eye(self._rule.streams).flatten()[:, None].expand(-1, logits_KR.shape[1])
        if self._rule.kind == "mhc_permutation":
            return self._permutations.t() @ logits_KR.softmax(0)
        return settled_sinkhorn(logits_KR, self._rule)


def settled_sinkhorn(logits_KR: Tensor, rule: Rule) -> Tensor:
    """Normalise columns and rows in turn (mHC eq. 9), [N*N, R], until that changes nothing any more."""
    n = rule.streams
    first_KR = logits_KR.view(n, n, -1).softmax(0).add_(rule.eps).view(n * n, -1)
    matrix_KR = first_KR.numpy()
    # One product sums a matrix along a dimension and repeats the sums along it.
    ones, eye = np.ones((n, n), np.float32), np.eye(n, dtype=np.float32)
    sums_of = (np.kron(ones, eye), np.kron(eye, ones))
    before = None
    for step in range(2 * rule.iterations - 1):
        sums_KR = sums_of[(step + 1) % 2] @ matrix_KR
        sums_KR += rule.eps
        matrix_KR /= sums_KR
        if step % CHECKED_EVERY == CHECKED_EVERY - 1:
            if before is not None and np.abs(sums_KR - before).max() < SETTLED:
                break
            before = sums_KR
    return first_KR
