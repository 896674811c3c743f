"""Reading, mixing and writing residual streams, with backward passes written by hand.

Streams are several times the size of every other activation, so what costs is how often they pass
through memory. Both functions here walk over the streams in pieces that stay in a CPU's cache, do
everything to one piece, keep only what they were given, and recompute the rest. Coefficients and
products are fp32 in models of any precision; results are rounded once, when stored.

Shape legend: T tokens, N streams, D hidden size, F flattened streams (N*D), K logits per token,
P permutations. A writing matrix, [T, N, N+1], maps (X, y) to X': it is H beside the column of
write gates. Without mixing it is that column alone, [T, N, 1].
"""

from __future__ import annotations

import functools
import itertools
import math
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .kernels import project as fused_project
from .kernels import read as fused_read
from .kernels import read_backward as fused_read_backward
from .kernels import read_gates_backward as fused_read_gates_backward
from .kernels import sinkhorn as fused_sinkhorn
from .kernels import sinkhorn_backward as fused_sinkhorn_backward
from .kernels import usable as fusable
from .kernels import write as fused_write
from .kernels import write_backward as fused_write_backward

# Numbers in one piece of streams on a CPU: 2 MB in fp32. Measured: larger pieces leave the cache,
# smaller ones pay more for calls.
PIECE_NUMBERS = 2**19


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


@functools.lru_cache
def _kept_permutations(streams: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return permutation_matrices(streams).to(device, dtype)


def _permutations(streams: int, like: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # what is made while tracing belongs to the graph
        return permutation_matrices(streams).to(like.device, like.dtype)
    return _kept_permutations(streams, like.dtype, like.device)


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
    """Gradient of the logits.

    Walks back through the logarithms, where a step y = x / (sum x + eps) has the short form
    gx = gy - y sum(gy).
    """
    softmax_NNT = logits_NNT.softmax(0)
    sums = _sums_like(softmax_NNT)
    dims = _normalised_dims(iterations)
    results = _scratch("steps", (len(dims), *softmax_NNT.shape), softmax_NNT).unbind()
    matrix_NNT = start_NNT = softmax_NNT + eps
    for dim, result_NNT in zip(dims, results, strict=True):
        torch.sum(matrix_NNT, dim, keepdim=True, out=sums[dim])
        matrix_NNT = torch.div(matrix_NNT, sums[dim].add_(eps), out=result_NNT)
    gradient_NNT = torch.mul(gradient_NNT, matrix_NNT, out=torch.empty_like(matrix_NNT))
    for dim, result_NNT in zip(reversed(dims), reversed(results), strict=True):
        torch.sum(gradient_NNT, dim, keepdim=True, out=sums[dim])
        gradient_NNT.addcmul_(result_NNT, sums[dim], value=-1)
    gradient_NNT.div_(start_NNT).mul_(softmax_NNT)
    torch.sum(gradient_NNT, 0, keepdim=True, out=sums[0])
    return gradient_NNT.addcmul_(softmax_NNT, sums[0], value=-1)


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
        normalise = fused_sinkhorn if fusable(logits_KT, n) else sinkhorn
        return normalise(logits_KT.view(n, n, -1), rule.iterations, rule.eps)
    matrices_PK = _permutations(n, logits_KT)
    return (matrices_PK.t() @ logits_KT.softmax(0)).view(n, n, -1)


def _mixing_backward(rule: Rule, logits_KT: Tensor, gradient_NNT: Tensor) -> Tensor:
    n = rule.streams
    if rule.kind == "mhc":
        walk_back = fused_sinkhorn_backward if fusable(logits_KT, n) else sinkhorn_backward
        gradient_NNT = walk_back(logits_KT.view(n, n, -1), gradient_NNT, rule.iterations, rule.eps)
        return gradient_NNT.view(n * n, -1)
    weights_PT = logits_KT.softmax(0)
    gradient_PT = _permutations(n, logits_KT) @ gradient_NNT.reshape(n * n, -1)
    return (gradient_PT - (gradient_PT * weights_PT).sum(0)).mul_(weights_PT)


class ReadStreams(torch.autograd.Function):
    """Coefficients from all streams, and the sublayer's input: u = sum_i pre_i X_i.

    Inputs: streams [B, S, N, D]; projection [K, F]; a constant and a learned bias [K]; a gate for
    each group of logits (read, write, mix). Outputs: u [B, S, D], the writing matrix, and the
    streams themselves. Writing takes that last output, so that all of the streams' gradient
    arrives here and is added up in one pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        streams_BSND: Tensor,
        projection: Tensor,
        constant: Tensor,
        bias: Tensor,
        gate: Tensor,
        rule: Rule,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute coefficients (mHC eq. 7, 8) and read."""
        streams = streams_BSND.flatten(0, 1)
        bias_K1 = (wide(constant) + wide(bias)).unsqueeze(1)
        gate_K1 = _per_logit(wide(gate), rule, bias.numel())
        fused = fusable(streams, rule.streams)
        passes = _read_fused if fused else _read_in_pieces
        read, raw_KT, inverse_rms_T, logits_KT = passes(streams, projection, bias_K1, gate_K1, rule)
        read_BSD = read.view_as(streams_BSND[:, :, 0])
        writing = _writing_matrix(rule, logits_KT)
        ctx.save_for_backward(streams_BSND, projection, bias_K1, gate, raw_KT, inverse_rms_T)
        ctx.rule, ctx.bias_dtype = rule, bias.dtype
        return read_BSD, writing, streams_BSND

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, Tensor, Tensor, None]:
        """Add up the streams' gradient from writing, from reading and from the coefficients."""
        streams_BSND, projection, bias_K1, gate, raw_KT, inverse_rms_T = ctx.saved_tensors
        rule, n, streams = ctx.rule, ctx.rule.streams, streams_BSND.flatten(0, 1)
        read_gradient, streams_gradient = gradients[0].flatten(0, 1), gradients[2].flatten(0, 1)
        gate_K1 = _per_logit(wide(gate), rule, bias_K1.numel())
        normed_KT = raw_KT * inverse_rms_T
        logits_KT = torch.addcmul(bias_K1, normed_KT, gate_K1)
        change_KT = torch.empty_like(logits_KT)
        _writing_backward(rule, logits_KT, gradients[1], change_KT)
        given = (streams, read_gradient, streams_gradient)
        coefficients = (logits_KT, normed_KT, inverse_rms_T, gate_K1)
        fused = fusable(streams, n)
        passes = _read_backward_fused if fused else _read_backward_in_pieces
        result = passes(given, coefficients, rule, change_KT)
        bias_gradient = change_KT.sum(1).to(ctx.bias_dtype)
        shares = (change_KT * normed_KT).sum(1).split([n, n, bias_K1.numel() - 2 * n])
        gate_gradient = torch.stack([share.sum() for share in shares]).to(gate.dtype)
        change_KT.mul_(gate_K1).mul_(inverse_rms_T)
        projection_gradient = _project_backward(change_KT, streams, projection, result)
        return result.view_as(streams_BSND), projection_gradient, None, bias_gradient, gate_gradient, None


def _read_fused(
    streams: Tensor, projection: Tensor, bias_K1: Tensor, gate_K1: Tensor, rule: Rule
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what was read, raw logits, inverse root mean squares and logits."""
    raw_KT, inverse_rms_T = fused_project(streams, projection, rule.norm_eps)
    logits_KT = torch.addcmul(bias_K1, raw_KT * inverse_rms_T, gate_K1)
    gates_NT = logits_KT[: rule.streams].sigmoid().add_(rule.eps)
    return fused_read(streams, gates_NT), raw_KT, inverse_rms_T, logits_KT


def _read_in_pieces(
    streams: Tensor, projection: Tensor, bias_K1: Tensor, gate_K1: Tensor, rule: Rule
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Do the same piece by piece: what a piece needs stays in the cache."""
    n, read = rule.streams, torch.empty_like(streams[:, 0])
    raw_KT = _project(streams, projection)
    inverse_rms_T, logits_KT = torch.empty_like(raw_KT[0]), torch.empty_like(raw_KT)
    for piece in _pieces(streams):
        streams32 = _scratch("streams", streams[piece].shape, raw_KT).copy_(streams[piece])
        norm_T = torch.linalg.vector_norm(streams32.flatten(1), dim=1)
        inverse_rms = norm_T.square_().div_(streams[0].numel()).add_(rule.norm_eps).rsqrt_()
        inverse_rms_T[piece] = inverse_rms
        logits = logits_KT[:, piece]
        torch.addcmul(bias_K1, raw_KT[:, piece] * inverse_rms, gate_K1, out=logits)
        read[piece] = _weighted_sum(streams32, logits[:n].sigmoid().add_(rule.eps))
    return read, raw_KT, inverse_rms_T, logits_KT


def _read_backward_fused(
    given: tuple[Tensor, Tensor, Tensor],
    coefficients: tuple[Tensor, Tensor, Tensor, Tensor],
    rule: Rule,
    change_KT: Tensor,
) -> Tensor:
    """Put the gradient of the read gates' logits into ``change``; return that of the streams.

    It comes from writing, from reading and from the norm; the projection's part is not in it yet.
    """
    streams, read_gradient, streams_gradient = given
    logits_KT, normed_KT, inverse_rms_T, gate_K1 = coefficients
    pre_NT = logits_KT[: rule.streams].sigmoid()
    pre_gradient_NT = fused_read_gates_backward(streams, read_gradient)
    torch.mul(pre_gradient_NT, pre_NT * (1 - pre_NT), out=change_KT[: rule.streams])
    along_T = _along(change_KT, normed_KT, gate_K1, inverse_rms_T, streams)
    return fused_read_backward(streams, streams_gradient, read_gradient, pre_NT + rule.eps, along_T)


def _read_backward_in_pieces(
    given: tuple[Tensor, Tensor, Tensor],
    coefficients: tuple[Tensor, Tensor, Tensor, Tensor],
    rule: Rule,
    change_KT: Tensor,
) -> Tensor:
    """Do the same piece by piece."""
    streams, read_gradient, streams_gradient = given
    logits_KT, normed_KT, inverse_rms_T, gate_K1 = coefficients
    n, result = rule.streams, torch.empty_like(streams)
    for piece in _pieces(streams):
        streams32 = _scratch("streams", streams[piece].shape, logits_KT).copy_(streams[piece])
        total = _scratch("total", streams32.shape, logits_KT)
        read32 = wide(read_gradient[piece]).unsqueeze(1)
        change, normed, inverse_rms = change_KT[:, piece], normed_KT[:, piece], inverse_rms_T[piece]
        pre_NT = logits_KT[:n, piece].sigmoid()
        pre_gradient_NT = torch.mul(streams32, read32, out=total).sum(2).t()
        torch.mul(pre_gradient_NT, pre_NT * (1 - pre_NT), out=change[:n])
        along_T11 = _along(change, normed, gate_K1, inverse_rms, streams)[:, None, None]
        pre_TN1 = pre_NT.add_(rule.eps).t().contiguous().unsqueeze(2)
        total.copy_(streams_gradient[piece])
        total.addcmul_(streams32, along_T11).addcmul_(pre_TN1, read32)
        result[piece] = total
    return result


def _along(
    change_KT: Tensor, normed_KT: Tensor, gate_K1: Tensor, inverse_rms_T: Tensor, streams: Tensor
) -> Tensor:
    """The RMS divides all logits, so its gradient points along the streams: return by how much, [T]."""
    along_T = (change_KT * normed_KT * gate_K1).sum(0).mul_(inverse_rms_T.square())
    return along_T.div_(-streams[0].numel())


def _per_logit(gate: Tensor, rule: Rule, logits: int) -> Tensor:
    """Repeat the three gates over their groups of logits, [K, 1]."""
    sizes = (rule.streams, rule.streams, logits - 2 * rule.streams)
    return torch.cat([part.expand(size) for part, size in zip(gate.unbind(), sizes, strict=True)]).unsqueeze(
        1
    )


def _writing_matrix(rule: Rule, logits_KT: Tensor) -> Tensor:
    """Return H beside the write gates, [T, N, N+1], or the write gates alone, [T, N, 1]."""
    n = rule.streams
    gates_NT = logits_KT[n : 2 * n].sigmoid().mul_(2)
    if rule.kind == "identity":
        return gates_NT.t().contiguous().unsqueeze(2)
    writing = logits_KT.new_empty(logits_KT.shape[1], n, n + 1)
    writing[:, :, n] = gates_NT.t()
    writing[:, :, :n] = _mixing_matrices(rule, logits_KT[2 * n :]).permute(2, 0, 1)
    return writing


def _writing_backward(rule: Rule, logits_KT: Tensor, gradient: Tensor, change_KT: Tensor) -> None:
    """Write the gradient of the writing and mixing logits into ``change_KT``."""
    n = rule.streams
    gates_NT = logits_KT[n : 2 * n].sigmoid()
    slopes_NT = gates_NT.mul(2).mul_(1 - gates_NT)
    torch.mul(gradient[:, :, -1].t(), slopes_NT, out=change_KT[n : 2 * n])
    if rule.kind != "identity":
        mixing_gradient = gradient[:, :, :n].permute(1, 2, 0)
        change_KT[2 * n :] = _mixing_backward(rule, logits_KT[2 * n :], mixing_gradient)


def _project(streams: Tensor, projection: Tensor) -> Tensor:
    """Project flattened streams to raw logits, [K, T], with at least 16 bits of the fp32 result.

    A bf16 product is several times faster than an fp32 one but rounds its result; a second one
    gives what the first has rounded away.
    """
    flat = streams.flatten(1).t()
    if streams.dtype == projection.dtype == torch.bfloat16:
        rounded = projection @ flat
        return wide(rounded).add_(torch.addmm(rounded, projection, flat, beta=-1))
    return wide(projection) @ wide(flat)


def _project_backward(change_KT: Tensor, streams: Tensor, projection: Tensor, result: Tensor) -> Tensor:
    """Add the projection's part to the streams' gradient ``result``; return its own gradient."""
    flat = result.view(result.shape[0], -1)
    if streams.dtype == projection.dtype == torch.bfloat16:
        change_KT = change_KT.bfloat16()
        flat.addmm_(change_KT.t(), projection)
        return change_KT @ streams.flatten(1)
    if streams.dtype == change_KT.dtype:
        flat.addmm_(change_KT.t(), wide(projection))
    else:
        flat += change_KT.t() @ wide(projection)
    return (change_KT @ wide(streams.flatten(1))).to(projection.dtype)


class WriteStreams(torch.autograd.Function):
    """X' = H X + post y as one product of the writing matrix with (X, y).

    Inputs: streams [B, S, N, D], output y [B, S, D], writing matrix. Output: streams.
    """

    @staticmethod
    def forward(ctx: Any, streams_BSND: Tensor, output_BSD: Tensor, writing: Tensor) -> Tensor:
        """Mix and add."""
        ctx.save_for_backward(streams_BSND, output_BSD, writing)
        streams, output = streams_BSND.flatten(0, 1), output_BSD.flatten(0, 1)
        if fusable(streams, streams.shape[1]):
            return fused_write(streams, output, writing).view_as(streams_BSND)
        result = torch.empty_like(streams)
        for piece in _pieces(streams):
            total = _scratch("total", streams[piece].shape, writing)
            if writing.shape[2] == 1:
                total.copy_(streams[piece]).addcmul_(writing[piece], wide(output[piece]).unsqueeze(1))
            else:
                torch.bmm(writing[piece], _joined(streams[piece], output[piece]), out=total)
            result[piece] = total
        return result.view_as(streams_BSND)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the streams, of the sublayer's output and of the writing matrix."""
        streams_BSND, output_BSD, writing = ctx.saved_tensors
        streams, output = streams_BSND.flatten(0, 1), output_BSD.flatten(0, 1)
        gradient, n = gradients[0].flatten(0, 1), streams.shape[1]
        mixed = writing.shape[2] > 1
        if fusable(streams, n):
            found = fused_write_backward(gradient, streams, output, writing)
            return found[0].view_as(streams_BSND), found[1].view_as(output_BSD), found[2]
        streams_gradient = torch.empty_like(streams) if mixed else gradient
        output_gradient = torch.empty_like(output)
        writing_gradient = torch.empty_like(writing)
        for piece in _pieces(streams):
            gradient32 = _scratch("streams", streams[piece].shape, writing).copy_(gradient[piece])
            if mixed:
                joined = _joined(streams[piece], output[piece])
                torch.bmm(gradient32, joined.transpose(1, 2), out=writing_gradient[piece])
                torch.bmm(writing[piece].transpose(1, 2), gradient32, out=joined)
                streams_gradient[piece] = joined[:, :n]
                output_gradient[piece] = joined[:, n]
            else:
                output_gradient[piece] = _weighted_sum(gradient32, writing[piece].squeeze(2).t())
                gradient32 *= wide(output[piece]).unsqueeze(1)
                torch.sum(gradient32, 2, keepdim=True, out=writing_gradient[piece])
        return streams_gradient.view_as(streams_BSND), output_gradient.view_as(output_BSD), writing_gradient


def wide(value: Tensor) -> Tensor:
    """Return ``value`` in fp32 at least (fp64 stays, for checking gradients)."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _weighted_sum(streams: Tensor, weights_NT: Tensor) -> Tensor:
    """Return sum_i weights_i X_i, [T, D]."""
    total = streams[:, 0] * weights_NT[0].unsqueeze(1)
    for index in range(1, streams.shape[1]):
        total.addcmul_(streams[:, index], weights_NT[index].unsqueeze(1))
    return total


def _joined(streams: Tensor, output: Tensor) -> Tensor:
    """Streams and output side by side in fp32, [T, N+1, D]."""
    tokens, n, size = streams.shape
    like = streams.new_empty(0, dtype=torch.promote_types(streams.dtype, torch.float32))
    joined = _scratch("joined", (tokens, n + 1, size), like)
    joined[:, :n] = streams
    joined[:, n] = output
    return joined


def _pieces(streams: Tensor) -> Iterator[slice]:
    """Cut the tokens into about equal slices; accelerators take them all at once."""
    tokens = streams.shape[0]
    pieces = math.ceil(streams.numel() / PIECE_NUMBERS) if streams.device.type == "cpu" else 1
    step = math.ceil(tokens / max(1, pieces))
    for start in range(0, tokens, max(1, step)):
        yield slice(start, min(start + step, tokens))


class _Workspace(threading.local):
    """Memory that one thread uses again for every piece, so that it stays in the cache."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[str, torch.dtype], Tensor] = {}


_workspace = _Workspace()


def _scratch(name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return uninitialised memory in the precision and on the device of ``like``.

    On a CPU its content lasts until the same name is asked for again.
    """
    if like.device.type != "cpu" or torch.compiler.is_compiling():  # a graph plans its own memory
        return like.new_empty(shape)
    key, numbers = (name, like.dtype), math.prod(shape)
    buffer = _workspace.buffers.get(key)
    if buffer is None or buffer.numel() < numbers:
        with torch.inference_mode(False):  # else training after generating could not write to it
            buffer = _workspace.buffers[key] = torch.empty(numbers, dtype=like.dtype)
    return buffer[:numbers].view(shape)
