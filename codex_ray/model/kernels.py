"""Triton kernels of hyper-connections for CUDA: each passes once over what it reads (mHC section 4.3.1).

Streams are the traffic: N*D numbers per token. Projecting them and taking their norm is one kernel, reading
one, mixing and writing one, and each backward pass one; Sinkhorn's iterations stay in registers. Numbers
are loaded in the model's precision, computed in fp32 and rounded once. Where a number of streams is no power
of two the operations in ``mixing.py`` do the same.

Shape legend: T tokens, N streams, M rows of streams and output together (N+1, padded), D hidden size,
F = N*D, K logits per token.
"""

# Triton reads the annotations of a kernel: numbers known when it is compiled have one, pointers have none.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # without CUDA nothing here is called
    triton = tl = None

TOKENS, FEATURES, COLUMNS = 32, 64, 256  # of one program: tokens, numbers in a product, numbers in a pass
SINKHORN_TOKENS = 128
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's interpreter takes tensors of a CPU


def usable(values: Tensor, streams: int) -> bool:
    """Whether the kernels take numbers of this kind and so many streams; a compiler makes its own."""
    here = triton is not None and (values.is_cuda or INTERPRETED) and not torch.compiler.is_compiling()
    return here and values.dtype in DTYPES and streams in (2, 4, 8)


def project(streams: Tensor, projection: Tensor, norm_eps: float) -> tuple[Tensor, Tensor]:
    """Project flattened streams, and take their inverse root mean square, in one pass.

    Returns:
        Raw logits, fp32, [K, T], and the inverse root mean squares, fp32, [T].
    """
    streams, projection = streams.contiguous(), projection.contiguous()
    tokens, logits = streams.shape[0], projection.shape[0]
    raw_KT = streams.new_empty(logits, tokens, dtype=torch.float32)
    inverse_rms_T = streams.new_empty(tokens, dtype=torch.float32)
    same = streams.dtype == projection.dtype
    _project[(triton.cdiv(tokens, TOKENS),)](
        streams,
        projection,
        raw_KT,
        inverse_rms_T,
        tokens,
        streams[0].numel(),
        norm_eps,
        LOGITS=logits,
        PADDED=max(16, triton.next_power_of_2(logits)),
        WIDE=not same or streams.dtype == torch.float32,
        TOKENS=TOKENS,
        FEATURES=FEATURES,
    )
    return raw_KT, inverse_rms_T


def read(streams: Tensor, gates_NT: Tensor) -> Tensor:
    """Return the sum of streams weighted by their gates, [T, D]."""
    streams = streams.contiguous()
    tokens, n, size = streams.shape
    result = streams.new_empty(tokens, size)
    _read[(tokens,)](streams, gates_NT.contiguous(), result, tokens, size, N=n, COLUMNS=COLUMNS)
    return result


def read_gates_backward(streams: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient of the read gates, fp32, [N, T]; ``gradient`` is of what was read, [T, D]."""
    streams, gradient = streams.contiguous(), gradient.contiguous()
    tokens, n, size = streams.shape
    result = streams.new_empty(n, tokens, dtype=torch.float32)
    _read_gates_backward[(tokens,)](streams, gradient, result, tokens, size, N=n, COLUMNS=COLUMNS)
    return result


def read_backward(
    streams: Tensor, gradient: Tensor, read_gradient: Tensor, gates_NT: Tensor, along_T: Tensor
) -> Tensor:
    """Return ``gradient + along * streams + gates * read_gradient``, [T, N, D]."""
    streams, gradient = streams.contiguous(), gradient.contiguous()
    tokens, n, size = streams.shape
    result = torch.empty_like(streams)
    _read_backward[(tokens,)](
        streams,
        gradient,
        read_gradient.contiguous(),
        gates_NT.contiguous(),
        along_T.contiguous(),
        result,
        tokens,
        size,
        N=n,
        COLUMNS=COLUMNS,
    )
    return result


def write(streams: Tensor, output: Tensor, writing: Tensor) -> Tensor:
    """Return the writing matrix times streams and output: H X + post y, [T, N, D]."""
    streams, output, writing = streams.contiguous(), output.contiguous(), writing.contiguous()
    tokens, n, size = streams.shape
    result = torch.empty_like(streams)
    _write[(tokens,)](
        streams, output, writing, result, size, N=n, M=2 * n, MIXED=writing.shape[2] > 1, COLUMNS=COLUMNS
    )
    return result


def write_backward(
    gradient: Tensor, streams: Tensor, output: Tensor, writing: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the streams, of the output and of the writing matrix."""
    gradient, streams, output, writing = (x.contiguous() for x in (gradient, streams, output, writing))
    tokens, n, size = streams.shape
    mixed = writing.shape[2] > 1
    streams_gradient = torch.empty_like(streams) if mixed else gradient
    output_gradient, writing_gradient = torch.empty_like(output), torch.empty_like(writing)
    _write_backward[(tokens,)](
        gradient,
        streams,
        output,
        writing,
        streams_gradient,
        output_gradient,
        writing_gradient,
        size,
        N=n,
        M=2 * n,
        MIXED=mixed,
        COLUMNS=COLUMNS,
    )
    return streams_gradient, output_gradient, writing_gradient


def sinkhorn(logits_NNT: Tensor, iterations: int, eps: float) -> Tensor:
    """Normalise columns and rows in turn; as ``mixing.sinkhorn``."""
    logits_NNT = logits_NNT.contiguous()
    n, _, tokens = logits_NNT.shape
    result = torch.empty_like(logits_NNT)
    _sinkhorn[(triton.cdiv(tokens, SINKHORN_TOKENS),)](
        logits_NNT, result, tokens, eps, ITERATIONS=iterations, N=n, TOKENS=SINKHORN_TOKENS
    )
    return result


def sinkhorn_backward(logits_NNT: Tensor, gradient_NNT: Tensor, iterations: int, eps: float) -> Tensor:
    """Return the gradient of the logits; as ``mixing.sinkhorn_backward``."""
    logits_NNT = logits_NNT.contiguous()
    n, _, tokens = logits_NNT.shape
    result = torch.empty_like(logits_NNT)
    # Each step divides by N sums: with them the way back needs no other state.
    sums = logits_NNT.new_empty(2 * iterations - 1, n, tokens)
    _sinkhorn_backward[(triton.cdiv(tokens, SINKHORN_TOKENS),)](
        logits_NNT,
        gradient_NNT.contiguous(),
        result,
        sums,
        tokens,
        eps,
        ITERATIONS=iterations,
        N=n,
        TOKENS=SINKHORN_TOKENS,
    )
    return result


def _kernel(function: Any) -> Any:
    return function if triton is None else triton.jit(function)


@_kernel
def _project(
    streams_ptr,
    projection_ptr,
    raw_ptr,
    rms_ptr,
    tokens,
    features,
    eps,
    LOGITS: tl.constexpr,
    PADDED: tl.constexpr,
    WIDE: tl.constexpr,
    TOKENS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    logit = tl.arange(0, PADDED)
    there = token < tokens
    row = token.to(tl.int64)[:, None] * features
    total = tl.zeros((TOKENS, PADDED), tl.float32)
    squares = tl.zeros((TOKENS,), tl.float32)
    for start in range(0, features, FEATURES):
        feature = start + tl.arange(0, FEATURES)
        inside = feature < features
        x = tl.load(streams_ptr + row + feature[None, :], mask=there[:, None] & inside[None, :], other=0.0)
        phi = tl.load(
            projection_ptr + logit[None, :] * features + feature[:, None],
            mask=(logit < LOGITS)[None, :] & inside[:, None],
            other=0.0,
        )
        wide = x.to(tl.float32)
        squares += tl.sum(wide * wide, 1)
        if WIDE:
            total = tl.dot(wide, phi.to(tl.float32), total, input_precision="tf32x3")
        else:
            total = tl.dot(x, phi, total)
    tl.store(
        raw_ptr + logit[None, :] * tokens + token[:, None],
        total,
        mask=there[:, None] & (logit < LOGITS)[None, :],
    )
    tl.store(rms_ptr + token, tl.rsqrt(squares / features + eps), mask=there)


@_kernel
def _read(streams_ptr, gates_ptr, result_ptr, tokens, size, N: tl.constexpr, COLUMNS: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    stream = tl.arange(0, N)
    gates = tl.load(gates_ptr + stream * tokens + token)
    for start in range(0, size, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < size
        x = tl.load(
            streams_ptr + (token * N + stream[:, None]) * size + column[None, :],
            mask=inside[None, :],
            other=0.0,
        )
        total = tl.sum(x.to(tl.float32) * gates[:, None], 0)
        tl.store(result_ptr + token * size + column, total, mask=inside)


@_kernel
def _read_gates_backward(
    streams_ptr, gradient_ptr, result_ptr, tokens, size, N: tl.constexpr, COLUMNS: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    stream = tl.arange(0, N)
    total = tl.zeros((N,), tl.float32)
    for start in range(0, size, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < size
        x = tl.load(
            streams_ptr + (token * N + stream[:, None]) * size + column[None, :],
            mask=inside[None, :],
            other=0.0,
        )
        gradient = tl.load(gradient_ptr + token * size + column, mask=inside, other=0.0)
        total += tl.sum(x.to(tl.float32) * gradient.to(tl.float32)[None, :], 1)
    tl.store(result_ptr + stream * tokens + token, total)


@_kernel
def _read_backward(
    streams_ptr,
    gradient_ptr,
    read_gradient_ptr,
    gates_ptr,
    along_ptr,
    result_ptr,
    tokens,
    size,
    N: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    stream = tl.arange(0, N)
    gates = tl.load(gates_ptr + stream * tokens + token)
    along = tl.load(along_ptr + token)
    for start in range(0, size, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < size
        places = (token * N + stream[:, None]) * size + column[None, :]
        x = tl.load(streams_ptr + places, mask=inside[None, :], other=0.0).to(tl.float32)
        total = tl.load(gradient_ptr + places, mask=inside[None, :], other=0.0).to(tl.float32)
        read = tl.load(read_gradient_ptr + token * size + column, mask=inside, other=0.0).to(tl.float32)
        total += x * along + gates[:, None] * read[None, :]
        tl.store(result_ptr + places, total, mask=inside[None, :])


@_kernel
def _write(
    streams_ptr,
    output_ptr,
    writing_ptr,
    result_ptr,
    size,
    N: tl.constexpr,
    M: tl.constexpr,
    MIXED: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    stream, row = tl.arange(0, N), tl.arange(0, M)
    if MIXED:
        weights = tl.load(
            writing_ptr + (token * N + stream[:, None]) * (N + 1) + row[None, :],
            mask=(row <= N)[None, :],
            other=0.0,
        )
    else:
        gates = tl.load(writing_ptr + token * N + stream)
    for start in range(0, size, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < size
        places = (token * N + stream[:, None]) * size + column[None, :]
        y = tl.load(output_ptr + token * size + column, mask=inside, other=0.0).to(tl.float32)
        if MIXED:
            x = tl.load(
                streams_ptr + (token * N + row[:, None]) * size + column[None, :],
                mask=(row < N)[:, None] & inside[None, :],
                other=0.0,
            ).to(tl.float32)
            joined = tl.where((row == N)[:, None], y[None, :], x)
            total = tl.sum(weights[:, :, None] * joined[None, :, :], 1)
        else:
            x = tl.load(streams_ptr + places, mask=inside[None, :], other=0.0).to(tl.float32)
            total = x + gates[:, None] * y[None, :]
        tl.store(result_ptr + places, total, mask=inside[None, :])


@_kernel
def _write_backward(
    gradient_ptr,
    streams_ptr,
    output_ptr,
    writing_ptr,
    streams_gradient_ptr,
    output_gradient_ptr,
    writing_gradient_ptr,
    size,
    N: tl.constexpr,
    M: tl.constexpr,
    MIXED: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    stream, row = tl.arange(0, N), tl.arange(0, M)
    if MIXED:
        places_W = (token * N + stream[:, None]) * (N + 1) + row[None, :]
        weights = tl.load(writing_ptr + places_W, mask=(row <= N)[None, :], other=0.0)
        total = tl.zeros((N, M), tl.float32)
    else:
        gates = tl.load(writing_ptr + token * N + stream)
        gates_total = tl.zeros((N,), tl.float32)
    for start in range(0, size, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < size
        gradient = tl.load(
            gradient_ptr + (token * N + stream[:, None]) * size + column[None, :],
            mask=inside[None, :],
            other=0.0,
        ).to(tl.float32)
        y = tl.load(output_ptr + token * size + column, mask=inside, other=0.0).to(tl.float32)
        if MIXED:
            places = (token * N + row[:, None]) * size + column[None, :]
            real = (row < N)[:, None] & inside[None, :]
            x = tl.load(streams_ptr + places, mask=real, other=0.0).to(tl.float32)
            joined = tl.where((row == N)[:, None], y[None, :], x)
            total += tl.sum(gradient[:, None, :] * joined[None, :, :], 2)
            back = tl.sum(weights[:, :, None] * gradient[:, None, :], 0)
            tl.store(streams_gradient_ptr + places, back, mask=real)
            to_output = tl.sum(tl.where((row == N)[:, None], back, 0.0), 0)
        else:
            gates_total += tl.sum(gradient * y[None, :], 1)
            to_output = tl.sum(gates[:, None] * gradient, 0)
        tl.store(output_gradient_ptr + token * size + column, to_output, mask=inside)
    if MIXED:
        tl.store(writing_gradient_ptr + places_W, total, mask=(row <= N)[None, :])
    else:
        tl.store(writing_gradient_ptr + token * N + stream, gates_total)


@_kernel
def _sinkhorn(
    logits_ptr,
    result_ptr,
    tokens,
    eps,
    ITERATIONS: tl.constexpr,
    N: tl.constexpr,
    TOKENS: tl.constexpr,
):
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    entry = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    places = entry[None, :, :] * tokens + token[:, None, None]
    there = (token < tokens)[:, None, None]
    logits = tl.load(logits_ptr + places, mask=there, other=0.0)
    powers = tl.exp(logits - tl.max(logits, 1)[:, None, :])
    matrix = powers / tl.sum(powers, 1)[:, None, :] + eps
    matrix = matrix / (tl.sum(matrix, 2) + eps)[:, :, None]
    for _ in range(1, ITERATIONS):
        matrix = matrix / (tl.sum(matrix, 1) + eps)[:, None, :]
        matrix = matrix / (tl.sum(matrix, 2) + eps)[:, :, None]
    tl.store(result_ptr + places, matrix, mask=there)


@_kernel
def _sinkhorn_backward(
    logits_ptr,
    gradient_ptr,
    result_ptr,
    sums_ptr,
    tokens,
    eps,
    ITERATIONS: tl.constexpr,
    N: tl.constexpr,
    TOKENS: tl.constexpr,
):
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    one = tl.arange(0, N)
    entry = one[:, None] * N + one[None, :]
    places = entry[None, :, :] * tokens + token[:, None, None]
    there = (token < tokens)[:, None, None]
    few = (token < tokens)[:, None]
    sums = sums_ptr + one[None, :] * tokens + token[:, None]  # of the first step; each has N * tokens
    logits = tl.load(logits_ptr + places, mask=there, other=0.0)
    powers = tl.exp(logits - tl.max(logits, 1)[:, None, :])
    softmax = powers / tl.sum(powers, 1)[:, None, :]
    matrix = softmax + eps
    rows = tl.sum(matrix, 2) + eps
    tl.store(sums, rows, mask=few)
    matrix = matrix / rows[:, :, None]
    for step in range(1, ITERATIONS):
        columns = tl.sum(matrix, 1) + eps
        tl.store(sums + (2 * step - 1) * N * tokens, columns, mask=few)
        matrix = matrix / columns[:, None, :]
        rows = tl.sum(matrix, 2) + eps
        tl.store(sums + 2 * step * N * tokens, rows, mask=few)
        matrix = matrix / rows[:, :, None]
    tl.debug_barrier()
    # In logarithms a step y = x / (sum x + eps) has gx = gy - y sum(gy); y times its sums is x again.
    change = tl.load(gradient_ptr + places, mask=there, other=0.0) * matrix
    for back in range(1, ITERATIONS):
        step = ITERATIONS - back
        change -= matrix * tl.sum(change, 2)[:, :, None]
        matrix *= tl.load(sums + 2 * step * N * tokens, mask=few, other=1.0)[:, :, None]
        change -= matrix * tl.sum(change, 1)[:, None, :]
        matrix *= tl.load(sums + (2 * step - 1) * N * tokens, mask=few, other=1.0)[:, None, :]
    change -= matrix * tl.sum(change, 2)[:, :, None]
    change = change / (softmax + eps) * softmax
    change -= softmax * tl.sum(change, 1)[:, None, :]
    tl.store(result_ptr + places, change, mask=there)
