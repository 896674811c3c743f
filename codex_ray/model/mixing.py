"""Reading, mixing and writing residual streams, with backward passes written by hand.

Streams are several times the size of every other activation, so what costs is how often they pass
through memory. Both functions here walk over the tokens in pieces that fit a CPU's cache, do
everything to one piece, keep only what they were given, and recompute the rest. Coefficients and
products are fp32 in models of any precision; results are rounded once, when stored.

Shape legend: T tokens, N streams, D hidden size, F flattened streams (N*D), K logits per token,
P permutations. A writing matrix, [T, N, N+1], maps (X, y) to X': it is H beside the column of
write gates. Without mixing it is that column alone, [T, N, 1].
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Numbers in one piece of streams on a CPU: 4 MB in fp32. Measured: larger pieces leave the cache,
# smaller ones pay more for calls.
PIECE_NUMBERS = 2**20


class Rule(NamedTuple):
    """How logits become coefficients; the configuration explains the names."""

    kind: str
    streams: int
    iterations: int
    eps: float
    norm_eps: float


def permutation_matrices(streams: int) -> Tensor:
    """All permutation matrices, [P, N*N], destination stream first; the identity is the first."""
    identity = torch.eye(streams)
    return torch.stack([identity[list(order)] for order in itertools.permutations(range(streams))]).flatten(1)


class Sinkhorn(torch.autograd.Function):
    """Doubly stochastic matrices from logits (mHC eq. 9); stores only the logits.

    Logits are [N, N, T], destination stream first. Columns are normalised first and rows last, so
    rows sum to one up to ``eps`` and columns as far as the iterations have converged.
    """

    @staticmethod
    def forward(ctx: Any, logits_NNT: Tensor, iterations: int, eps: float) -> Tensor:
        """Normalise columns and rows ``iterations`` times."""
        ctx.save_for_backward(logits_NNT)
        ctx.iterations, ctx.eps = iterations, eps
        return sinkhorn(logits_NNT, iterations, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Redo the normalisations and walk back through them."""
        (logits_NNT,) = ctx.saved_tensors
        return sinkhorn_backward(logits_NNT, gradients[0], ctx.iterations, ctx.eps), None, None


def sinkhorn(logits_NNT: Tensor, iterations: int, eps: float) -> Tensor:
    """Softmax over columns, then rows and columns in turn, all in place; see :class:`Sinkhorn`."""
    matrix_NNT = logits_NNT.softmax(0).add_(eps)
    sums = _sums_like(matrix_NNT)
    for dim in _normalised_dims(iterations):
        torch.sum(matrix_NNT, dim, keepdim=True, out=sums[dim])
        matrix_NNT.div_(sums[dim].add_(eps))
    return matrix_NNT


def sinkhorn_backward(logits_NNT: Tensor, gradient_NNT: Tensor, iterations: int, eps: float) -> Tensor:
    """Gradient of the logits: a step y = x / (s + eps) has gx = (gy - sum(gy y)) / (s + eps)."""
    softmax_NNT = logits_NNT.softmax(0)
    sums = _sums_like(softmax_NNT)
    steps = []
    matrix_NNT = softmax_NNT + eps
    for dim in _normalised_dims(iterations):
        divisor = torch.sum(matrix_NNT, dim, keepdim=True).add_(eps)
        matrix_NNT = matrix_NNT / divisor
        steps.append((dim, matrix_NNT, divisor))
    gradient_NNT = gradient_NNT.clone(memory_format=torch.contiguous_format)
    product_NNT = torch.empty_like(gradient_NNT)
    for dim, matrix_NNT, divisor in reversed(steps):
        torch.mul(gradient_NNT, matrix_NNT, out=product_NNT)
        torch.sum(product_NNT, dim, keepdim=True, out=sums[dim])
        gradient_NNT.sub_(sums[dim]).div_(divisor)
    torch.mul(gradient_NNT, softmax_NNT, out=product_NNT)
    torch.sum(product_NNT, 0, keepdim=True, out=sums[0])
    return gradient_NNT.sub_(sums[0]).mul_(softmax_NNT)


def _normalised_dims(iterations: int) -> list[int]:
    """Dimensions normalised after the softmax, which is the first column normalisation."""
    return [1, *[0, 1] * (iterations - 1)]


def _sums_like(matrix_NNT: Tensor) -> tuple[Tensor, Tensor]:
    streams, _, tokens = matrix_NNT.shape
    return matrix_NNT.new_empty(1, streams, tokens), matrix_NNT.new_empty(streams, 1, tokens)


def _mixing_matrices(rule: Rule, logits_KT: Tensor) -> Tensor:
    """Matrices with unit row and column sums, [N, N, T]."""
    n = rule.streams
    if rule.kind == "mhc":
        return sinkhorn(logits_KT.view(n, n, -1), rule.iterations, rule.eps)
    matrices_PK = permutation_matrices(n).to(logits_KT)
    return (matrices_PK.t() @ logits_KT.softmax(0)).view(n, n, -1)


def _mixing_backward(rule: Rule, logits_KT: Tensor, gradient_NNT: Tensor) -> Tensor:
    n = rule.streams
    if rule.kind == "mhc":
        gradient_NNT = sinkhorn_backward(logits_KT.view(n, n, -1), gradient_NNT, rule.iterations, rule.eps)
        return gradient_NNT.view(n * n, -1)
    weights_PT = logits_KT.softmax(0)
    gradient_PT = permutation_matrices(n).to(logits_KT) @ gradient_NNT.reshape(n * n, -1)
    return (gradient_PT - (gradient_PT * weights_PT).sum(0)).mul_(weights_PT)


class ReadStreams(torch.autograd.Function):
    """Coefficients from all streams, and the sublayer's input: u = sum_i pre_i X_i.

    Inputs: streams [T, N, D]; projection [K, F]; bias and gate [K], fp32. Outputs: u [T, D], the
    writing matrix, and the streams themselves. Writing takes that last output, so that all of the
    streams' gradient arrives here and is added up in one pass.
    """

    @staticmethod
    def forward(
        ctx: Any, streams: Tensor, projection: Tensor, bias: Tensor, gate: Tensor, rule: Rule
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute coefficients (mHC eq. 7, 8) and read."""
        tokens, n, size = streams.shape
        width = 1 if rule.kind == "identity" else n + 1
        read = torch.empty_like(streams[:, 0])
        writing = bias.new_empty(tokens, n, width)
        statistics = []
        for piece in _pieces(streams):
            streams32 = wide(streams[piece])
            raw_KT = _project(streams[piece], streams32, projection)
            norm = torch.linalg.vector_norm(streams32.view(-1, n * size), dim=1)
            inverse_rms_T = (norm.square_().div_(n * size)).add_(rule.norm_eps).rsqrt_()
            statistics += [raw_KT, inverse_rms_T]
            logits_KT = torch.addcmul(bias[:, None], raw_KT * inverse_rms_T, gate[:, None])
            gates_NT = logits_KT[: 2 * n].sigmoid()
            pre_TN = gates_NT[:n].add(rule.eps).t().contiguous()
            torch.mul(gates_NT[n:].t(), 2.0, out=writing[piece][:, :, -1])
            if width > 1:
                matrices_NNT = _mixing_matrices(rule, logits_KT[2 * n :])
                writing[piece][:, :, :n].copy_(matrices_NNT.permute(2, 0, 1))
            read[piece] = torch.bmm(pre_TN.unsqueeze(1), streams32).squeeze(1)
        ctx.save_for_backward(streams, projection, bias, gate, *statistics)
        ctx.rule = rule
        ctx.set_materialize_grads(False)
        return read, writing, streams

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        """Add up the streams' gradient from writing, reading and the coefficients."""
        streams, projection, bias, gate, *statistics = ctx.saved_tensors
        rule, n = ctx.rule, streams.shape[1]
        read_gradient, writing_gradient, streams_gradient = gradients
        result = torch.empty_like(streams)
        totals = [torch.zeros_like(value, dtype=bias.dtype) for value in (projection, bias, gate)]
        for index, piece in enumerate(_pieces(streams)):
            raw_KT, inverse_rms_T = statistics[2 * index : 2 * index + 2]
            streams32 = wide(streams[piece])
            read32 = wide(read_gradient[piece])
            normed_KT = raw_KT * inverse_rms_T
            logits_KT = torch.addcmul(bias[:, None], normed_KT, gate[:, None])
            gates_NT = logits_KT[: 2 * n].sigmoid()
            slope_NT = gates_NT * (1 - gates_NT)
            change_KT = torch.empty_like(logits_KT)
            pre_gradient = torch.bmm(streams32, read32.unsqueeze(2)).squeeze(2)
            torch.mul(pre_gradient.t(), slope_NT[:n], out=change_KT[:n])
            torch.mul(writing_gradient[piece][:, :, -1].t(), slope_NT[n:].mul_(2), out=change_KT[n : 2 * n])
            if rule.kind != "identity":
                mixing_gradient = writing_gradient[piece][:, :, :n].permute(1, 2, 0)
                change_KT[2 * n :] = _mixing_backward(rule, logits_KT[2 * n :], mixing_gradient)
            totals[1] += change_KT.sum(1)
            totals[2] += (change_KT * normed_KT).sum(1)
            change_KT *= gate[:, None]
            # The RMS divides all logits, so its gradient is along the streams themselves.
            along_T = (change_KT * normed_KT).sum(0).mul_(inverse_rms_T.square()).div_(-streams[0].numel())
            change_KT *= inverse_rms_T
            pre_TN = gates_NT[:n].add(rule.eps).t().contiguous()
            total = torch.mul(streams32, along_T[:, None, None])
            total.addcmul_(pre_TN.unsqueeze(2), read32.unsqueeze(1))
            if streams_gradient is not None:
                total += streams_gradient[piece]
            result[piece] = total
            _project_backward(change_KT, streams[piece], streams32, projection, result[piece], totals[0])
        return result, totals[0].to(projection.dtype), totals[1], totals[2], None


def _project(streams: Tensor, streams32: Tensor, projection: Tensor) -> Tensor:
    """Project flattened streams to raw logits, [K, T], with at least 16 bits of the fp32 result.

    A bf16 product is several times faster than an fp32 one but rounds its result; a second one
    gives what the first has rounded away.
    """
    if streams.dtype == projection.dtype == torch.bfloat16:
        flat = streams.flatten(1).t()
        rounded = projection @ flat
        return wide(rounded).add_(torch.addmm(rounded, projection, flat, beta=-1))
    return wide(projection) @ streams32.flatten(1).t()


def _project_backward(
    change_KT: Tensor, streams: Tensor, streams32: Tensor, projection: Tensor, result: Tensor, total: Tensor
) -> None:
    """Add the projection's part to the streams' gradient ``result`` and to its own, ``total``."""
    flat = result.view(result.shape[0], -1)
    if streams.dtype == projection.dtype == torch.bfloat16:
        change_KT = change_KT.bfloat16()
        flat.addmm_(change_KT.t(), projection)
        total += change_KT @ streams.flatten(1)
    elif streams.dtype == streams32.dtype:
        flat.addmm_(change_KT.t(), wide(projection))
        total.addmm_(change_KT, streams32.flatten(1))
    else:
        flat += change_KT.t() @ wide(projection)
        total.addmm_(change_KT, streams32.flatten(1))


class WriteStreams(torch.autograd.Function):
    """X' = H X + post y as one product of the writing matrix with (X, y).

    Inputs: streams [T, N, D], output y [T, D], writing matrix. Output: streams.
    """

    @staticmethod
    def forward(ctx: Any, streams: Tensor, output: Tensor, writing: Tensor) -> Tensor:
        """Mix and add."""
        ctx.save_for_backward(streams, output, writing)
        result = torch.empty_like(streams)
        for piece in _pieces(streams):
            if writing.shape[2] == 1:
                added = wide(streams[piece])
                result[piece] = torch.addcmul(added, writing[piece], wide(output[piece]).unsqueeze(1))
            else:
                result[piece] = torch.bmm(writing[piece], _joined(streams[piece], output[piece]))
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the streams, of the sublayer's output and of the writing matrix."""
        streams, output, writing = ctx.saved_tensors
        gradient, n = gradients[0], streams.shape[1]
        mixed = writing.shape[2] > 1
        streams_gradient = torch.empty_like(streams) if mixed else gradient
        output_gradient = torch.empty_like(output)
        writing_gradient = torch.empty_like(writing)
        for piece in _pieces(streams):
            gradient32 = wide(gradient[piece])
            if mixed:
                joined = _joined(streams[piece], output[piece])
                torch.bmm(gradient32, joined.transpose(1, 2), out=writing_gradient[piece])
                both = torch.bmm(writing[piece].transpose(1, 2), gradient32)
                streams_gradient[piece] = both[:, :n]
                output_gradient[piece] = both[:, n]
            else:
                output32 = wide(output[piece]).unsqueeze(2)
                torch.bmm(gradient32, output32, out=writing_gradient[piece])
                output_gradient[piece] = torch.bmm(writing[piece].transpose(1, 2), gradient32).squeeze(1)
        return streams_gradient, output_gradient, writing_gradient


def wide(value: Tensor) -> Tensor:
    """fp32 at least (fp64 stays, for checking gradients)."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _joined(streams: Tensor, output: Tensor) -> Tensor:
    """Streams and output side by side in fp32, [T, N+1, D]."""
    tokens, n, size = streams.shape
    dtype = torch.promote_types(streams.dtype, torch.float32)
    joined = streams.new_empty(tokens, n + 1, size, dtype=dtype)
    joined[:, :n] = streams
    joined[:, n] = output
    return joined


def _pieces(streams: Tensor) -> Iterator[slice]:
    """Cut the tokens into slices; accelerators take them all at once."""
    tokens, n, size = streams.shape
    step = max(1, PIECE_NUMBERS // (n * size)) if streams.device.type == "cpu" else max(1, tokens)
    for start in range(0, tokens, step):
        yield slice(start, min(start + step, tokens))
